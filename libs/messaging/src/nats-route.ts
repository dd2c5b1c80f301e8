import { CleaveError } from '#contracts';
import type { NatsAddress } from '#nats';
import type { Ended, Question, Route } from './client.js';
import {
  carriedSubject,
  encodeFrame,
  NatsPeer,
  NobodyThere,
  presentIn,
  presentSubject,
  requestSubject,
  type Asked,
} from './nats-peer.js';

/** How long a request is silent before its module is asked whether anybody has it, and again after as long. */
const lookAfterMs = 1_000;

/**
 * Asks one module over NATS. A request goes to one of the instances that are subscribed; where none is, NATS says so and it
 * fails at once, as everything does that is under way when the connection is lost.
 *
 * NATS does not tell that an instance was killed. So a request that is silent is asked after, every second: where no
 * instance has it, it is lost, or lies with one that stands still. An idempotent one is asked once more then, within its
 * deadline, of the first instance that says that it is present, or of any when none has said so a second later; another one
 * fails at its deadline, or before that when no instance is left at all.
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
      asked.push(
        this.peer.ask(requestSubject(pattern, at), frame, meta.remainingMs, (heard) => {
          // It has left since it said that it was present.
          if (heard instanceof NobodyThere && at !== undefined) send();
          else if (heard instanceof Error) end(heard instanceof NobodyThere ? this.nobody() : heard);
          else if ('err' in heard.head) end(heard.head['err']);
          else end(undefined, heard.body);
        }),
      );
    };
    let look: Asked | undefined;
    let lookForAnother: Asked | undefined;
    const askAgain = () => {
      // Nobody has said so within a second: those of a version that is not asked for may take it as well.
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
