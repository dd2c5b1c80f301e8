import { whyDistrusted } from '#config';
import { CleaveError } from '#contracts';

/** The errors of the network, the resolver and the pool if Postgres cannot be reached or the connection breaks. */
const lostConnection = new Set([
  ...['ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN'],
  ...['EHOSTUNREACH', 'ENETUNREACH'],
]);
const lostConnectionMessage =
  /^(Connection terminated|timeout exceeded when trying to connect|timeout expired|no answer within|Query read timeout|Client has encountered a connection error|Client was closed|Cannot use a pool after calling end)/;

/** SQLSTATEs after which the connection is useless: refused, lost, shutting down, no capacity, or now a standby. */
const endsSession = /^(08|28|3D|53|57P|25P03|25P04|25006)/;

/** Why Postgres refuses the connection, by SQLSTATE, and what the operator can do about it. */
const refusals: readonly [RegExp, (variable: string) => string][] = [
  [/^3D000/, (variable) => `there is no such database. Restore it, or correct ${variable} and start again`],
  [/^28/, (variable) => `it refuses the user or the password. Correct them in ${variable} and start again`],
  [/^42501/, () => 'the user may not connect to it. Grant CONNECT'],
  [/^53300/, () => 'all of its connections are taken. Raise its max_connections, or run fewer instances'],
  [/^57P03/, () => 'it is starting or recovering. Wait for it; its log says what it does'],
];

/** Why Postgres did not carry out a statement, by SQLSTATE: nothing that another request would change. */
const refusedStatement: Record<string, string> = {
  '25006': 'it is read-only',
  '40001': 'the statement conflicted with a concurrent transaction',
  '40P01': 'the statement was cancelled because of a deadlock',
  '42501': 'the user lacks a privilege',
  '53100': 'its disk is full',
  '55P03': 'waiting for a lock timed out',
  '57014': 'the statement timed out or was cancelled',
  '58030': 'its storage fails',
};

interface DriverError {
  code?: string;
  severity?: string;
  routine?: string;
  message: string;
}

/** TypeORM wraps the driver's error. */
const driverErrorOf = (error: unknown): DriverError =>
  (error as { driverError?: DriverError } | undefined)?.driverError ??
  (error as DriverError | undefined) ?? { message: '' };

/** Whether Postgres sent the error. All other errors come from the network or the pool. */
const isAnswer = ({ severity }: DriverError): boolean => severity !== undefined;

/** A prepared statement whose tables a migration has changed; it works again on another connection. */
const isOutdatedPlan = ({ routine }: DriverError): boolean => routine === 'RevalidateCachedQuery';

/** Whether Postgres is unreachable or cannot serve us: a reason to retry, and to drop the connection. */
export function isConnectionFailure(error: unknown): boolean {
  const it = driverErrorOf(error);
  if (isAnswer(it)) return endsSession.test(it.code ?? '') || isOutdatedPlan(it);
  return lostConnection.has(it.code ?? '') || lostConnectionMessage.test(it.message);
}

/** Whether the connection can be used again after this error. */
export const keepsConnection = (error: unknown): boolean =>
  isAnswer(driverErrorOf(error)) && !isConnectionFailure(error);

/** Waiting does not help against a wrong or missing password (28, SASL) or a database that does not exist (3D). */
export const isRefusal = (error: unknown): boolean => {
  const { code, message } = driverErrorOf(error);
  return /^(28|3D)/.test(code ?? '') || message.startsWith('SASL');
};

/** The server's certificate is not trusted, or it has none although TLS is required. Waiting does not help here either. */
export const isDistrusted = (error: unknown): boolean =>
  whyDistrusted(driverErrorOf(error)) !== undefined ||
  driverErrorOf(error).message.startsWith('The server does not support SSL');

/** The name of the variable with the URL of a database, for messages. */
export const variableOf = (name: string): string => `${name.toUpperCase()}_DATABASE_URL (else DATABASE_URL)`;

/** Without a password, the driver fails by itself, with an error that has no SQLSTATE. */
const whyRefused = (error: unknown, name: string): string | undefined => {
  const { code = '' } = driverErrorOf(error);
  const known = isRefusal(error) && !/^(28|3D)/.test(code) ? '28' : code;
  return refusals.find(([codes]) => codes.test(known))?.[1](variableOf(name));
};

/**
 * The error to throw if there is no connection: Postgres cannot be reached or refuses it.
 *
 * @param name of the data source, for the message
 */
export const notConnected = (error: unknown, name: string): CleaveError => {
  if (error instanceof CleaveError) return error;
  const { code, message } = driverErrorOf(error);
  const why = whyRefused(error, name) ?? `the connection failed (${code ?? message}). Try again in a moment`;
  return new CleaveError('unavailable', `The ${name} database cannot be used: ${why}.`, {}, { cause: error });
};

const reasonOf = (error: unknown): string | undefined => {
  const it = driverErrorOf(error);
  const why = isAnswer(it) ? refusedStatement[it.code ?? ''] : undefined;
  return why ?? (isConnectionFailure(error) ? `the connection failed: ${it.code ?? it.message}` : undefined);
};

/** The error for a commit that is done but may be lost with its server. */
export const notReplicated = (name: string): CleaveError =>
  new CleaveError(
    'unavailable',
    `The ${name} database did not confirm that its standby has the change. Try again in a moment.`,
  );

const isCausedBy = (error: unknown, code: string): boolean =>
  error instanceof CleaveError && (error.cause as DriverError | undefined)?.code === code;

/** Whether a statement gave up because it had waited too long for a lock. Nothing of it was done. */
export const isLockTimeout = (error: unknown): boolean => isCausedBy(error, '55P03');

/** Whether a statement was refused because the user lacks a privilege. Waiting does not help. */
export const lacksPrivilege = (error: unknown): boolean => isCausedBy(error, '42501');

/**
 * Converts an error of the driver or of TypeORM: to `unavailable` if Postgres cannot be reached, is shutting down, has no
 * capacity, or cannot carry out the statement whatever the request; any other error is returned unchanged. After
 * `unavailable`, a write may or may not have taken effect: repeat it with the same key.
 *
 * @param name of the data source, for the message
 */
export function asUnavailable(error: unknown, name: string): unknown {
  if (error instanceof CleaveError) return error;
  const reason = reasonOf(error);
  if (reason === undefined) return error;
  return new CleaveError(
    'unavailable',
    `The ${name} database did not answer (${reason}). Try again in a moment.`,
    {},
    {
      cause: error,
    },
  );
}
