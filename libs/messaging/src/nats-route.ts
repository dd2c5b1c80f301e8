import { CleaveError } from '#contracts';
import type { NatsAddress } from '#nats';
import { defer, mergeMap, Observable, type Subscriber } from 'rxjs';
import type { Route } from './client.js';
import {
  carriedSubject,
  encodeFrame,
  NatsPeer,
  NobodyThere,
  requestSubject,
  type Asked,
  type Frame,
} from './nats-peer.js';
import type { WireRequest } from './wire.js';

/** How long a request is silent before its module is asked whether anybody has it, and again after as long. */
const lookAfterMs = 1_000;

/**
 * Asks one module over NATS. A request goes to one of the instances that are subscribed; where none is, NATS says so and it
 * fails at once, as everything does that is under way when the connection is lost.
 *
 * NATS does not tell that an instance was killed. So a request that is silent is asked after, every second: where no
 * instance has it, it is lost. An idempotent one is asked once more then, within its deadline; another one fails at its
 * deadline, or before that when no instance is left at all.
 */
export class NatsRoute implements Route {
  private readonly peer: NatsPeer;

  constructor(
    at: NatsAddress,
    private readonly module: string,
    maxBytes: number,
  ) {
    this.peer = new NatsPeer(at, `NATS to ${module}`, () => maxBytes);
  }

  send(pattern: string, message: () => WireRequest, mayRepeat: boolean): Observable<unknown> {
    return defer(() => this.peer.open()).pipe(
      mergeMap(() => new Observable((caller) => this.ask(pattern, message, mayRepeat, caller))),
    );
  }

  close(): Promise<void> {
    return this.peer.close();
  }

  private ask(
    pattern: string,
    message: () => WireRequest,
    mayRepeat: boolean,
    caller: Subscriber<unknown>,
  ): () => void {
    const asked: Asked[] = [];
    let isInHand = true;
    const send = () => {
      const { meta, body } = message();
      const frame = encodeFrame({ meta }, body);
      asked.push(
        this.peer.ask(requestSubject(pattern), frame, meta.remainingMs, (heard) => {
          if (!(heard instanceof Error)) settle(caller, heard);
          else caller.error(heard instanceof NobodyThere ? this.nobody() : heard);
        }),
      );
    };
    let look: Asked | undefined;
    const lookForIt = () => {
      look?.stop();
      if (!isInHand && mayRepeat && asked.length === 1) send();
      isInHand = false;
      const question = encodeFrame({ carried: asked.map(({ reply }) => reply) });
      look = this.peer.ask(carriedSubject(this.module), question, lookAfterMs, (heard) => {
        isInHand = !(heard instanceof Error);
        if (heard instanceof NobodyThere)
          caller.error(this.nobody('is left, and the request was lost with the last one'));
      });
    };
    send();
    const looking = setInterval(lookForIt, lookAfterMs);
    return () => {
      clearInterval(looking);
      for (const { stop } of asked) stop();
      look?.stop();
    };
  }

  private nobody(what = 'takes requests at present'): CleaveError {
    return new CleaveError('unavailable', `No instance of ${this.module} ${what}; start one or try again later`);
  }
}

function settle(caller: Subscriber<unknown>, { head, body }: Frame): void {
  if ('err' in head) return caller.error(head['err']);
  caller.next(body);
  caller.complete();
}
