import { Child } from './child.js';

/** The commands between processes of the benchmark. Arguments and results are copied, including typed arrays. */
type Commands = Record<string, (argument: never) => unknown>;

interface Question {
  id: number;
  name: string;
  argument: unknown;
}

interface Reply {
  id: number;
  result?: unknown;
  error?: string;
}

/** Those of a program that implements the part of the API that the benchmark uses. */
export type ShopCommands = {
  /** Creates the tables and listens. @returns the address */
  listen(argument: { databaseUrl: string }): Promise<string>;
};

/** A program of the benchmark that carries out commands; the counterpart of `carryOut`. */
export class Program<Known extends Commands> {
  private readonly child: Child;
  private readonly waiting = new Map<number, PromiseWithResolvers<unknown>>();
  private asked = 0;

  /** @param program below `test/bench`, such as `driver` */
  constructor(program: string, environment?: Record<string, string>) {
    this.child = new Child(`test/bench/${program}/main.js`, environment);
    this.child.process.on('message', ({ id, result, error }: Reply) => {
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) waiting?.resolve(result);
      else waiting?.reject(new Error(error));
    });
    void this.child.ended.then((how) => {
      for (const { reject } of this.waiting.values()) reject(new Error(how));
      this.waiting.clear();
    });
  }

  get pid(): number {
    return this.child.pid;
  }

  call<Name extends keyof Known & string>(
    name: Name,
    argument: Parameters<Known[Name]>[0],
  ): Promise<Awaited<ReturnType<Known[Name]>>> {
    const id = (this.asked += 1);
    const reply = Promise.withResolvers<unknown>();
    this.waiting.set(id, reply);
    this.child.process.send({ id, name, argument } satisfies Question, (error) => {
      if (error) reply.reject(error);
    });
    return reply.promise as Promise<Awaited<ReturnType<Known[Name]>>>;
  }

  stop(): Promise<void> {
    return this.child.stop();
  }
}

/** Carries out the commands of the parent process, and ends with it. */
export const carryOut = (commands: Commands): void => {
  process.once('disconnect', () => process.exit());
  process.once('SIGTERM', () => process.exit());
  process.on('message', (question: Question) => void answer(commands, question));
};

const answer = async (commands: Commands, { id, name, argument }: Question): Promise<void> => {
  const reply: Reply = { id };
  try {
    reply.result = await commands[name]!(argument as never);
  } catch (error) {
    reply.error = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  process.send?.(reply);
};
