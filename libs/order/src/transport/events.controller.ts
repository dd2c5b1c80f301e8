import { Readable } from 'node:stream';
import { Controller, Get, Headers, Query, Res, StreamableFile } from '@nestjs/common';
import { ApiHeader, ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { eventPage, eventQuery, orderEvent } from '#contracts';
import { CalledBy, Cursors, Endpoint, eventStream, isAskedFor, pageLimit, valid } from '#rest';
import type { Caller } from '#security';
import { ReadEvents, type OrderEvent } from '../use-cases/read-events.js';
import { eventCursor, eventDocument, positionIn } from './event-documents.js';

/** How often an idle stream sends a comment to show that it is alive. */
const heartbeatMs = 10_000;

@ApiTags('orders')
@Controller()
export class EventsController {
  constructor(
    private readonly readEvents: ReadEvents,
    private readonly cursors: Cursors,
  ) {}

  @Get('events')
  @ApiHeader({
    name: 'Last-Event-ID',
    required: false,
    description:
      'The `id` of the last event received; the event stream continues there. Takes precedence over `after`.',
    schema: { type: 'string' },
  })
  @Endpoint({
    scope: 'events:read',
    operationId: 'listEvents',
    summary: 'Read the events of orders, in commit order',
    description:
      'If you continue from the cursor of the last event, you see each event exactly once, however late its ' +
      'transaction committed. A page of large events has fewer entries. With `Accept: text/event-stream` you ' +
      'receive events as they happen, as server-sent events whose `id` is the cursor.',
    replies: { 200: { schema: eventPage, description: 'One page of events', streamedAs: eventStream } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(eventQuery)) { after, limit }: z.output<typeof eventQuery>,
    @Headers('accept') accept: string | undefined,
    @Headers('last-event-id') lastEventId: string | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof eventPage> | StreamableFile> {
    if (accept !== undefined && isAskedFor(accept, eventStream)) {
      const events = this.readEvents.follow(
        caller.tenant,
        positionIn(this.cursors, lastEventId || after),
        goneSignal(reply),
      );
      reply.header('cache-control', 'no-store').header('x-accel-buffering', 'no');
      return new StreamableFile(Readable.from(this.streamed(events)), { type: eventStream });
    }
    const { events, next } = await this.readEvents.page(
      caller.tenant,
      positionIn(this.cursors, after),
      pageLimit(limit),
    );
    return { data: events.map((it) => eventDocument(this.cursors, it)), next_cursor: eventCursor(this.cursors, next) };
  }

  /** Server-sent events (WHATWG HTML, 9.2). */
  private async *streamed(events: AsyncIterable<OrderEvent[]>): AsyncGenerator<string, void> {
    yield ': these are the events of orders\n\n';
    let toldAt = performance.now();
    for await (const some of events) {
      if (some.length === 0 && performance.now() - toldAt < heartbeatMs) continue;
      toldAt = performance.now();
      yield some.length === 0 ? ': nothing new\n\n' : some.map((it) => this.messageOf(it)).join('');
    }
  }

  private messageOf(event: OrderEvent): string {
    const document = eventDocument(this.cursors, event);
    const data = JSON.stringify(z.encode(orderEvent, document));
    return `id: ${document.cursor}\nevent: ${document.type}\ndata: ${data}\n\n`;
  }
}

/** Aborted once the reply is complete or the client has disconnected. */
const goneSignal = ({ raw }: FastifyReply): AbortSignal => {
  if (raw.closed) return AbortSignal.abort();
  const gone = new AbortController();
  raw.once('close', () => gone.abort());
  return gone.signal;
};
