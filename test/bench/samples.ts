/** A packed list of numbers: millions of them must not burden the garbage collector of the process that measures. */
export class Samples {
  private values = new Float64Array(4_096);
  private count = 0;

  add(value: number): void {
    if (this.count === this.values.length) {
      const larger = new Float64Array(this.count * 2);
      larger.set(this.values);
      this.values = larger;
    }
    this.values[this.count] = value;
    this.count += 1;
  }

  /** All of them, for the caller to sort or sum up. */
  taken(): Float64Array {
    return this.values.subarray(0, this.count);
  }
}
