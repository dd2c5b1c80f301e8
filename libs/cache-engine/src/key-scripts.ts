import type { Attempts } from './attempts.js';
import type { Connection } from './connection.js';
import { CacheUnavailable } from './errors.js';
import { onceMoved, putApart, unlessMoving } from './moving.js';
import type { AboutKey } from './scripts.js';

/** Scripts about keys; calls made in the same turn of the event loop are sent together. */
type KeyScript = 'lease' | 'fill' | 'renew' | 'release' | 'put' | 'putIf' | 'removeIf';

interface AskedAbout {
  about: AboutKey;
  resolve: (reply: unknown) => void;
  reject: (error: unknown) => void;
}

/** The limits of one script call, in keys and in characters: Redis serves no one else while a script runs. */
export const largestScript = 128;
const largestScriptText = 1_048_576;

/** Batches script calls about keys: all calls of one turn of the event loop are sent together, up to the limits above. */
export class KeyScripts {
  private readonly askedAbout: Record<KeyScript, AskedAbout[]> = {
    lease: [],
    fill: [],
    renew: [],
    release: [],
    put: [],
    putIf: [],
    removeIf: [],
  };

  constructor(
    private readonly connection: Connection,
    private readonly attempts: Attempts,
  ) {}

  /** Batches the call, except in a cluster, where the keys lie in many slots and each is sent separately. */
  ask<Reply>(script: KeyScript, about: AboutKey): Promise<Reply> {
    const { promise, resolve, reject } = Promise.withResolvers<Reply>();
    const asked = { about, resolve: resolve as (reply: unknown) => void, reject };
    if (this.connection.redis.kind === 'cluster') void this.askPage(script, [asked]);
    else if (this.askedAbout[script].push(asked) === 1) setImmediate(() => this.askAll(script));
    return promise;
  }

  private askAll(script: KeyScript): void {
    let page: AskedAbout[] = [];
    let text = 0;
    for (const asked of this.askedAbout[script].splice(0)) {
      let more = 0;
      for (const word of asked.about) more += word.length;
      if (page.length === largestScript || (page.length > 0 && text + more > largestScriptText)) {
        void this.askPage(script, page);
        page = [];
        text = 0;
      }
      page.push(asked);
      text += more;
    }
    void this.askPage(script, page);
  }

  private async askPage(script: KeyScript, page: readonly AskedAbout[]): Promise<void> {
    const { connection, attempts } = this;
    const { kind, client } = connection.redis;
    const asking = (): Promise<unknown[]> => client[script](page.map((it) => it.about));
    const ofCluster = async (hasEnded: () => boolean): Promise<unknown[]> => {
      const { about } = page[0]!;
      await connection.connected(about[0], hasEnded);
      return script === 'put'
        ? unlessMoving(asking(), () => putApart(client, about, hasEnded))
        : onceMoved(asking, attempts.deadlineMs / 2, hasEnded);
    };
    const ask = kind === 'server' ? asking : ofCluster;
    try {
      const replies = await attempts.attempt(script, page[0]!.about[0], ask, (all) =>
        all.find((it) => it instanceof Error),
      );
      for (let at = 0; at < page.length; at += 1) {
        const { resolve, reject } = page[at]!;
        const reply = replies[at];
        if (reply instanceof Error) reject(new CacheUnavailable({ cause: reply }));
        else resolve(reply);
      }
    } catch (error) {
      for (const { reject } of page) reject(error);
    }
  }
}
