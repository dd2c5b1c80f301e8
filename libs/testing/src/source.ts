/** A source of values for a cache. It returns the value it had when it was asked; a value that is an Error is thrown. */
export class Source {
  asked = 0;
  private gate = Promise.withResolvers<void>();

  constructor(public value: unknown) {
    this.gate.resolve();
  }

  /** From now on, answers wait until `open`. */
  close(): void {
    this.gate = Promise.withResolvers();
  }

  open(): void {
    this.gate.resolve();
  }

  readonly load = async (): Promise<unknown> => {
    this.asked += 1;
    const { value } = this;
    await this.gate.promise;
    if (value instanceof Error) throw value;
    return value;
  };
}
