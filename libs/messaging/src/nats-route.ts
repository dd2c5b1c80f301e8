import { CleaveError } from '#contracts';
import type { NatsAddress } from '#nats';
import type { Ended, Question, Route } from './client.js';
import {
  carriedSubject,
  encodeFrame,
  lastResort,
  NatsPeer,
  NobodyThere,
  presentIn,
  presentSubject,
  requestSubject,
  type Asked,
} from './nats-peer.js';

/** After this long without a reply, and again as often, the module's instances are asked whether one has the request. */
const lookAfterMs = 1_000;

/**
 * Calls one module over NATS. A request goes to one of the subscribed instances. If there is none, not even one that fails,
 * NATS reports it and the request fails at once; if the connection is lost, all pending requests fail at once.
 *
 * NATS does not report that an instance was killed. So every second without a reply, the instances are asked whether one has
 * the request. If none has it, it is lost or lies with an instance that is stuck. An idempotent request is then sent once
 * more, within its deadline, to the first instance that reports itself present, or to any if none does within a second.
 * Other requests fail at their deadline, or earlier when no instance is left.
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

  ask(question: Question, ended: Ended): () => void {
    let isForgotten = false;
    let forget: (() => void) | undefined;
    const ask = () => {
      if (!isForgotten) forget = this.askOnce(question, ended);
    };
    this.peer.open().then(ask).catch(ended);
    return () => {
      isForgotten = true;
      forget?.();
    };
  }

  close(): Promise<void> {
    return this.peer.close();
  }

  private askOnce({ pattern, message, mayRepeat }: Question, ended: Ended): () => void {
    const asked: Asked[] = [];
    let isInHand = true;
    const send = (at?: string) => {
      const { meta, body } = message();
      const frame = encodeFrame({ meta }, body);
      const one = this.peer.ask(requestSubject(pattern, at), frame, meta.remainingMs, (heard) => {
        if (heard instanceof NobodyThere && at !== lastResort) {
          // Nobody has got it. An instance that had reported itself present has left since; or all have left the group.
          asked.splice(asked.indexOf(one), 1);
          send(at === undefined ? lastResort : undefined);
        } else if (heard instanceof Error) end(heard instanceof NobodyThere ? this.nobody() : heard);
        else if ('err' in heard.head) end(heard.head['err']);
        else end(undefined, heard.body);
      });
      asked.push(one);
    };
    let look: Asked | undefined;
    let lookForAnother: Asked | undefined;
    const askAgain = () => {
      // No instance has reported itself present within a second: older versions, which cannot, may take the request as well.
      if (lookForAnother) return send();
      lookForAnother = this.peer.ask(presentSubject(this.module), encodeFrame({}), lookAfterMs, (heard) => {
        send(heard instanceof Error ? undefined : presentIn(heard));
      });
    };
    const lookForIt = () => {
      look?.stop();
      lookForAnother?.stop();
      if (!isInHand && mayRepeat && asked.length === 1) askAgain();
      isInHand = false;
      const question = encodeFrame({ carried: asked.map(({ reply }) => reply) });
      look = this.peer.ask(carriedSubject(this.module), question, lookAfterMs, (heard) => {
        isInHand = !(heard instanceof Error);
        if (heard instanceof NobodyThere) end(this.nobody('is left, and the request was lost with the last one'));
      });
    };
    const looking = setInterval(lookForIt, lookAfterMs);
    const forget = () => {
      clearInterval(looking);
      for (const { stop } of asked) stop();
      look?.stop();
      lookForAnother?.stop();
    };
    const end: Ended = (...outcome) => {
      forget();
      ended(...outcome);
    };
    try {
      send();
    } catch (error) {
      end(error);
    }
    return forget;
  }

  private nobody(what = 'takes requests at present'): CleaveError {
    return new CleaveError('unavailable', `No instance of ${this.module} ${what}; start one or try again later`);
  }
}
