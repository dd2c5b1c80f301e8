import type { AnyValue, Attributes, HrTime, SpanContext } from '@opentelemetry/api';
import type { ReadableSpan } from '@opentelemetry/sdk-trace';

/** The parts of a span that are written, besides its ids. */
export type ToldSpan = Pick<
  ReadableSpan,
  | ('name' | 'kind' | 'startTime' | 'endTime' | 'status' | 'attributes' | 'events' | 'links')
  | ('droppedAttributesCount' | 'droppedEventsCount' | 'droppedLinksCount')
>;

/** Most spans take 100 to 200 bytes, so that this is some 1,500 of them. */
const size = 262_144;
/** A length is not known when its varint is reserved, so this many bytes are: enough for the length of a whole batch. */
const lengthBytes = 3;
const nanoseconds = 1e9;

/**
 * Spans of one resource and scope as a protobuf `ExportTraceServiceRequest` of OTLP. Spans are written as they end, into
 * memory that is reused. Beside each tag is the name of its field; a tag is the field number times eight plus the wire
 * type.
 *
 * @see https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
 */
export class SpanBatch {
  count = 0;
  private readonly buffer = Buffer.allocUnsafeSlow(size);
  private at = 0;
  private readonly inResourceSpans: number;
  private readonly inScopeSpans: number;
  private readonly begin: number;

  constructor(resource: Attributes, scope: string) {
    this.inResourceSpans = this.open(0x0a); // resource_spans
    const inResource = this.open(0x0a); // resource
    this.attributes(0x0a, resource);
    this.close(inResource);
    this.inScopeSpans = this.open(0x12); // scope_spans
    const inScope = this.open(0x0a); // scope
    this.text(0x0a, scope); // name
    this.close(inScope);
    this.begin = this.at;
  }

  /** @returns whether there was room for it */
  add(span: ToldSpan, context: SpanContext, parent: SpanContext | undefined): boolean {
    const before = this.at;
    this.span(span, context, parent);
    if (this.at <= size) {
      this.count += 1;
      return true;
    }
    this.at = before;
    return false;
  }

  /** @returns the bytes to send, which are valid until the batch is cleared */
  finish(): Uint8Array {
    this.close(this.inScopeSpans);
    this.close(this.inResourceSpans);
    return this.buffer.subarray(0, this.at);
  }

  clear(): void {
    this.at = this.begin;
    this.count = 0;
  }

  private span(span: ToldSpan, { traceId, spanId, traceFlags }: SpanContext, parent: SpanContext | undefined): void {
    const inSpan = this.open(0x12); // spans
    this.id(0x0a, traceId);
    this.id(0x12, spanId);
    if (parent) this.id(0x22, parent.spanId); // parent_span_id
    this.text(0x2a, span.name);
    this.number(0x30, span.kind + 1);
    this.time(0x39, span.startTime);
    this.time(0x41, span.endTime);
    this.attributes(0x4a, span.attributes);
    this.number(0x50, span.droppedAttributesCount);
    for (const { name, time, attributes = {} } of span.events) {
      const inEvent = this.open(0x5a);
      this.time(0x09, time);
      this.text(0x12, name);
      this.attributes(0x1a, attributes);
      this.close(inEvent);
    }
    this.number(0x60, span.droppedEventsCount);
    for (const { context, attributes } of span.links) {
      const inLink = this.open(0x6a);
      this.id(0x0a, context.traceId);
      this.id(0x12, context.spanId);
      if (attributes) this.attributes(0x22, attributes);
      this.put(0x35); // flags
      this.flags(context.traceFlags, context.isRemote);
      this.close(inLink);
    }
    this.number(0x70, span.droppedLinksCount);
    const inStatus = this.open(0x7a);
    if (span.status.message !== undefined) this.text(0x12, span.status.message);
    this.number(0x18, span.status.code);
    this.close(inStatus);
    this.put(0x85); // flags, the tag of which has two bytes
    this.put(0x01);
    this.flags(traceFlags, parent?.isRemote);
    this.close(inSpan);
  }

  private attributes(tag: number, attributes: Attributes): void {
    for (const key of Object.keys(attributes)) {
      const inPair = this.open(tag);
      this.text(0x0a, key);
      this.value(0x12, attributes[key]);
      this.close(inPair);
    }
  }

  /** An `AnyValue`. What is not a string, a number, a boolean or a list of these is written as JSON. */
  private value(tag: number, value: AnyValue): void {
    const inValue = this.open(tag);
    if (typeof value === 'string') this.text(0x0a, value);
    else if (typeof value === 'boolean') this.raw(0x10, value ? 1 : 0);
    else if (typeof value === 'number') {
      if (Number.isSafeInteger(value)) this.raw(0x18, value);
      else this.double(0x21, value);
    } else if (Array.isArray(value)) {
      const inList = this.open(0x2a);
      for (const it of value) this.value(0x0a, it);
      this.close(inList);
    } else if (value !== null && value !== undefined) this.text(0x0a, JSON.stringify(value));
    this.close(inValue);
  }

  private put(byte: number): void {
    this.buffer[this.at++] = byte;
  }

  /** @returns where the content of the field begins */
  private open(tag: number): number {
    this.put(tag);
    return (this.at += lengthBytes);
  }

  private close(begin: number): void {
    const length = this.at - begin;
    const at = begin - lengthBytes;
    this.buffer[at] = (length & 0x7f) | 0x80;
    this.buffer[at + 1] = ((length >>> 7) & 0x7f) | 0x80;
    this.buffer[at + 2] = length >>> 14;
  }

  /** A field that is left out reads as zero. */
  private number(tag: number, value: number): void {
    if (value !== 0) this.raw(tag, value);
  }

  /** A varint; a negative number is written as its 64-bit two's complement. */
  private raw(tag: number, value: number): void {
    this.put(tag);
    if (value < 0) return this.belowZero(value);
    let rest = value;
    for (; rest > 0x7f; rest = Math.floor(rest / 0x80)) this.put((rest % 0x80) | 0x80);
    this.put(rest);
  }

  private belowZero(value: number): void {
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest > 0x7fn; rest >>= 7n) this.put(Number(rest & 0x7fn) | 0x80);
    this.put(Number(rest));
  }

  private double(tag: number, value: number): void {
    this.put(tag);
    if (this.at + 8 <= size) this.buffer.writeDoubleLE(value, this.at);
    this.at += 8;
  }

  private fixed(value: number): void {
    this.put(value & 0xff);
    this.put((value >>> 8) & 0xff);
    this.put((value >>> 16) & 0xff);
    this.put(value >>> 24);
  }

  /** Nanoseconds since 1970 exceed a safe integer: seconds times 10⁹ is calculated in two halves of 32 bits. */
  private time(tag: number, [seconds, nanos]: HrTime): void {
    this.put(tag);
    const low = (seconds % 0x1_0000) * nanoseconds + nanos;
    const high = Math.floor(seconds / 0x1_0000) * nanoseconds;
    const lower = (high % 0x1_0000) * 0x1_0000 + low;
    this.fixed((lower % 0x1_0000_0000) | 0);
    this.fixed(Math.floor(high / 0x1_0000) + Math.floor(lower / 0x1_0000_0000));
  }

  /** The flags of W3C Trace Context, and whether the parent or linked span is remote (0x200), which is known (0x100). */
  private flags(traceFlags: number, isRemote = false): void {
    this.fixed(traceFlags | 0x100 | (isRemote ? 0x200 : 0));
  }

  private id(tag: number, hex: string): void {
    this.put(tag);
    this.put(hex.length / 2);
    for (let at = 0; at < hex.length; at += 2) {
      this.put((digit(hex.charCodeAt(at)) << 4) | digit(hex.charCodeAt(at + 1)));
    }
  }

  private text(tag: number, text: string): void {
    const begin = this.open(tag);
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code > 0x7f) {
        this.at = begin + this.utf8(text, begin);
        break;
      }
      this.put(code);
    }
    this.close(begin);
  }

  private utf8(text: string, at: number): number {
    const length = Buffer.byteLength(text);
    if (at + length <= size) this.buffer.write(text, at);
    return length;
  }
}

/** The value of a hexadecimal digit in lower case. */
const digit = (code: number): number => (code < 58 ? code - 48 : code - 87);
