import { CleaveError } from '#contracts';
import { AnsweringServer, drainMs } from './answering-server.js';
import type { Ended, Question, Route } from './client.js';

/** Connects the modules of one application; each application has its own hub. */
export class InProcessHub {
  server: InProcessServer | undefined;
  /** Resolved once the application listens: calls made during the start wait for it, within their deadline. */
  readonly opening = Promise.withResolvers<void>();
}

export class InProcessServer extends AnsweringServer {
  override readonly transportId = Symbol('in-process');

  constructor(private readonly hub: InProcessHub) {
    super();
  }

  protected override async start(): Promise<void> {
    this.hub.server = this;
    this.hub.opening.resolve();
  }

  /** Whether there is a handler for any operation of the module. */
  answersFor(module: string): boolean {
    return [...this.messageHandlers.keys()].some((pattern) => pattern.startsWith(`${module}.`));
  }

  /**
   * Waits for running requests but keeps answering: requests that other transports finish meanwhile may still need it. The
   * hub is emptied when the whole application has been drained.
   */
  override async close(): Promise<void> {
    await this.inFlight.idle(drainMs);
  }
}

/**
 * In characters. A longer reply is read in a later turn of the event loop than the one it was written in: pages of the log
 * take milliseconds for each, and other requests should not have to wait for both.
 */
const longReply = 65_536;

/** Sends requests to a module of the same application. */
export class InProcessRoute implements Route {
  constructor(private readonly hub: InProcessHub) {}

  ask({ pattern, message }: Question, ended: Ended): () => void {
    const ask = (): void => {
      const { server } = this.hub;
      if (server)
        void server.receive(pattern, message()).then(({ err, response }) => {
          if (typeof response === 'string' && response.length > longReply) setImmediate(ended, err, response);
          else ended(err, response);
        });
      else ended(new CleaveError('unavailable', 'The application is stopping; try again later'));
    };
    if (this.hub.server) ask();
    else this.hub.opening.promise.then(ask).catch(ended);
    return () => undefined;
  }

  async close(): Promise<void> {}
}
