import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import protobuf from 'protobufjs';

export interface CollectedSpan {
  traceId: string;
  spanId: string;
  /** Empty if there is none. */
  parentSpanId: string;
  name: string;
  service: string;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  links: readonly { traceId: string; spanId: string }[];
  status: { code: number };
}

const protobufType = 'application/x-protobuf';

/** The parts of `opentelemetry/proto/collector/trace/v1/trace_service.proto` that tests look at. */
const sent = protobuf
  .parse(
    `
  syntax = "proto3";
  message Sent { repeated ResourceSpans resourceSpans = 1; }
  message ResourceSpans { Resource resource = 1; repeated ScopeSpans scopeSpans = 2; }
  message Resource { repeated KeyValue attributes = 1; }
  message ScopeSpans { Scope scope = 1; repeated Span spans = 2; }
  message Scope { string name = 1; string version = 2; }
  message Span {
    bytes traceId = 1; bytes spanId = 2; bytes parentSpanId = 4; string name = 5; int32 kind = 6;
    fixed64 startTimeUnixNano = 7; fixed64 endTimeUnixNano = 8;
    repeated KeyValue attributes = 9; uint32 droppedAttributesCount = 10; repeated Event events = 11;
    uint32 droppedEventsCount = 12; repeated Link links = 13; uint32 droppedLinksCount = 14; Status status = 15;
    fixed32 flags = 16;
  }
  message Event { fixed64 timeUnixNano = 1; string name = 2; repeated KeyValue attributes = 3; }
  message Link { bytes traceId = 1; bytes spanId = 2; repeated KeyValue attributes = 4; fixed32 flags = 6; }
  message Status { string message = 2; int32 code = 3; }
  message KeyValue { string key = 1; AnyValue value = 2; }
  message AnyValue {
    oneof value {
      string stringValue = 1; bool boolValue = 2; int64 intValue = 3; double doubleValue = 4; ArrayValue arrayValue = 5;
    }
  }
  message ArrayValue { repeated AnyValue values = 1; }
`,
  )
  .root.lookupType('Sent');

interface Sent {
  resourceSpans: {
    resource: { attributes: { key: string; value: { stringValue?: string } }[] };
    scopeSpans: { spans: Omit<CollectedSpan, 'service'>[] }[];
  }[];
}

/** The decoded message, with ids in hexadecimal. */
const asTold = (bytes: Uint8Array): Sent => {
  const message = sent.toObject(sent.decode(bytes), { longs: String, bytes: String, defaults: true });
  return JSON.parse(JSON.stringify(message), (name, value: unknown) =>
    /(trace|span)Id$/i.test(name) ? Buffer.from(String(value), 'base64').toString('hex') : value,
  ) as Sent;
};

/** The resource spans in an `ExportTraceServiceRequest` in protobuf. */
export const spansOf = (bytes: Uint8Array): unknown[] => asTold(bytes).resourceSpans;

/** Accepts spans by OTLP over HTTP, as an OpenTelemetry collector does. */
export class Collector {
  readonly spans: CollectedSpan[] = [];
  /** The bodies of all requests, to search for strings. */
  received = '';

  private constructor(
    readonly url: string,
    readonly stop: () => Promise<void>,
  ) {}

  static async start(): Promise<Collector> {
    const server = createServer((request, response) => {
      void buffer(request).then((body) => {
        collector.take(request, body);
        response.setHeader('content-type', protobufType).end();
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const collector = new Collector(`http://127.0.0.1:${port}`, async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    });
    return collector;
  }

  of(traceId: string): CollectedSpan[] {
    return this.spans.filter((it) => it.traceId === traceId);
  }

  private take({ url, headers }: IncomingMessage, body: Buffer): void {
    if (url !== '/v1/traces' || headers['content-type'] !== protobufType)
      throw new Error(`spans came to ${url} as ${headers['content-type']}`);
    this.received += body.toString();
    for (const { resource, scopeSpans } of asTold(body).resourceSpans) {
      const service = resource.attributes.find(({ key }) => key === 'service.name')?.value.stringValue ?? '';
      this.spans.push(...scopeSpans.flatMap(({ spans }) => spans.map((it) => ({ ...it, service }))));
    }
  }
}
