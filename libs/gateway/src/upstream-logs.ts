import type { Dispatcher } from 'undici';
import { auditedOperations } from '#contracts';
import { UpstreamLogLevels, type LevelFound, type LogLevelChange, type Told } from '#health';
import { callerHeader, type Authenticator, type Caller } from '#security';
import { currentWork, logLevels, type LogLevel } from '#telemetry';
import type { BalancedUpstream } from './balanced-upstream.js';

const timeoutMs = 2_000;

const [changeMethod, path] = auditedOperations.putLogLevel;

interface Answer {
  address: string;
  /** The answer; undefined if it was a refusal. */
  body?: unknown;
  why?: string;
}

/** Reads and sets the log level of the upstreams. They are told who asks, as with any other request. */
export class UpstreamLogs extends UpstreamLogLevels {
  constructor(
    private readonly upstreams: readonly BalancedUpstream[],
    private readonly authenticator: Authenticator,
  ) {
    super();
  }

  get services(): string[] {
    return this.upstreams.map(({ name }) => name);
  }

  async tell(service: string, change: LogLevelChange, caller: Caller): Promise<Told> {
    const answers = await this.send(service, changeMethod, caller, JSON.stringify(change));
    return {
      told: answers.flatMap(({ address, why }) => (why === undefined ? [address] : [])),
      not_told: answers.flatMap(({ address, why }) => (why === undefined ? [] : [{ address, why }])),
    };
  }

  async ask(service: string, caller: Caller): Promise<LevelFound[]> {
    const answers = await this.send(service, 'GET', caller);
    return answers.map(({ address, body, why }) => {
      if (why !== undefined) return { address, why };
      const level = levelIn(body);
      return level ? { address, level } : { address, why: 'its response has no known log level' };
    });
  }

  private async send(service: string, method: 'GET' | 'PUT', caller: Caller, body?: string): Promise<Answer[]> {
    const told = this.authenticator.toldAs(caller, { method, url: path });
    const requestId = currentWork()?.requestId;
    const headers = {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(told !== undefined && { [callerHeader]: told }),
      ...(requestId !== undefined && { 'x-request-id': requestId }),
    };
    const upstreams = this.upstreams.filter(({ name }) => name === service);
    const request = { method, path, headers, ...(body !== undefined && { body }) };
    const answers = await Promise.all(upstreams.map((it) => it.sendToEach(request, timeoutMs)));
    // A connection that breaks must not hide the other answers.
    const read = (answer: PromiseSettledResult<Dispatcher.ResponseData>): Promise<Omit<Answer, 'address'>> =>
      readIn(answer).catch((error: Error) => ({ why: error.message }));
    return Promise.all(answers.flat().map(async ([address, answer]) => ({ address, ...(await read(answer)) })));
  }
}

/** Validated, because the address may belong to another version or another program. */
const levelIn = (body: unknown): LogLevel | undefined =>
  logLevels.find((it) => it === (body as { level?: unknown } | null)?.level);

const readIn = async (answer: PromiseSettledResult<Dispatcher.ResponseData>): Promise<Omit<Answer, 'address'>> => {
  if (answer.status === 'rejected') return { why: (answer.reason as Error).message };
  const { statusCode, body } = answer.value;
  if (statusCode === 200) return { body: await body.json() };
  await body.dump();
  return { why: `it answers ${statusCode}` };
};
