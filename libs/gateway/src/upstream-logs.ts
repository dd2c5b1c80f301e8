import type { Dispatcher } from 'undici';
import { auditedOperations } from '#contracts';
import { LogsBehind, type LogLevelChange, type Told } from '#health';
import { callerHeader, type Authenticator, type Caller } from '#security';
import { currentWork } from '#telemetry';
import type { BalancedUpstream } from './balanced-upstream.js';

const timeoutMs = 2_000;

const [method, path] = auditedOperations.putLogLevel;

/** Has the upstreams log more or less. They are told who asks for it as with any other request, and log it themselves. */
export class UpstreamLogs extends LogsBehind {
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
    const told = this.authenticator.toldAs(caller, { method, url: path });
    const requestId = currentWork()?.requestId;
    const headers = {
      'content-type': 'application/json',
      ...(told !== undefined && { [callerHeader]: told }),
      ...(requestId !== undefined && { 'x-request-id': requestId }),
    };
    const upstreams = this.upstreams.filter(({ name }) => name === service);
    const request = { method, path, headers, body: JSON.stringify(change) };
    const answers = await Promise.all(upstreams.map((it) => it.sendToEach(request, timeoutMs)));
    const outcomes = await Promise.all(
      answers.flat().map(async ([address, answer]) => ({ address, why: await refusalIn(answer) })),
    );
    return {
      told: outcomes.flatMap(({ address, why }) => (why === undefined ? [address] : [])),
      not_told: outcomes.flatMap(({ address, why }) => (why === undefined ? [] : [{ address, why }])),
    };
  }
}

/** @returns undefined where there is none */
const refusalIn = async (answer: PromiseSettledResult<Dispatcher.ResponseData>): Promise<string | undefined> => {
  if (answer.status === 'rejected') return (answer.reason as Error).message;
  const { statusCode, body } = answer.value;
  await body.dump();
  return statusCode === 200 ? undefined : `it answers ${statusCode}`;
};
