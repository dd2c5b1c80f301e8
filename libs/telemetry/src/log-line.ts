/** The first is the usual one. */
export const logLevels = ['info', 'fatal', 'error', 'warn', 'debug', 'trace'] as const;
export type LogLevel = (typeof logLevels)[number];

export const logFormats = ['json', 'text'] as const;
export type LogFormat = (typeof logFormats)[number];

const hidden = '***';

/** What must not be read by those who read logs, wherever in a text it stands. */
const secrets: readonly [RegExp, string][] = [
  // User and password in an address, and in each of several that share its beginning.
  [/:\/\/[^\s/"']+@/g, `://${hidden}@`],
  [/\b(bearer|basic)\s+[\w.~+/=-]{6,}/gi, `$1 ${hidden}`],
  // A key of ours, whose id may be told, and keys of Stripe and of Standard Webhooks; in addresses as well, where more may be encoded.
  [/(ck(?:_|%(?:25)*5f)[\da-f]{32})(?:_|%(?:25)*5f)[\da-f]{8,}/gi, `$1_${hidden}`],
  [/((?:\b|%(?:25)*[\dA-Fa-f]{2})(?:sk|rk|whsec))(?:_|%(?:25)*5[Ff])[\w+/=%-]{8,}/g, `$1_${hidden}`],
  [
    /\b(password|secret|token|api[_-]?key|authorization)(["']?\s*[:=]\s*["']?)(?!\*\*\*|bearer|basic)[^\s"',;&]+/gi,
    `$1$2${hidden}`,
  ],
];

/**
 * A JSON Web Token, signed or encrypted (RFC 7516, five parts of which the second may be empty), with what may follow it
 * (RFC 9901, `~`), also in plain base64. What only begins as one does is taken as well, or it would be begun with again and
 * again where it stands there many times.
 */
const webToken = /\beyJ[\w+/-]{6,}(={0,2}\.[\w+/=-]*\.[\w.~+/=-]*)?/g;

const withoutWebTokens = (text: string): string =>
  text.replace(webToken, (found, rest: string | undefined) => (rest === undefined ? found : hidden));

/** Of a longer text nobody reads more, and looking for secrets in it would keep everybody waiting. */
const longest = 8_192;

/** Tokens last: what is left of them would keep those who look for more of the text from finding it. */
export const withoutSecrets = (text: string): string =>
  withoutWebTokens(
    secrets.reduce(
      (rest, [pattern, replacement]) => rest.replace(pattern, replacement),
      text.length > longest ? `${text.slice(0, longest)} … (${text.length - longest} characters more)` : text,
    ),
  );

/** Control characters, and those that change how what follows is shown. */
const unseen = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

const escaped = (text: string): string =>
  text.replace(unseen, (character) => {
    if (character === '\n') return '\\n';
    if (character === '\t') return '\\t';
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });

/** JSON leaves some of them as they are, which viewers may take for the end of a line. */
export const asJson = (json: string): string =>
  `${json.trimEnd().replace(unseen, (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, '0')}`)}\n`;

const colours: Record<LogLevel, number> = { fatal: 31, error: 31, warn: 33, info: 32, debug: 36, trace: 90 };

/** One line of JSON, as a person reads it. What was logged cannot begin a line: a stack follows indented. */
export const asText = (json: string, isColoured: boolean): string => {
  const { level, time, service: _, context, msg, stack, ...rest } = JSON.parse(json) as Record<string, unknown>;
  const paint = (text: string, colour: number): string => (isColoured ? `\u001b[${colour}m${text}\u001b[0m` : text);
  const told = Object.entries(rest).map(([name, value]) => `${name}=${escaped(String(value))}`);
  const line = [
    String(time).slice(11, 23),
    paint(String(level).toUpperCase().padEnd(5), colours[level as LogLevel]),
    ...(context === undefined ? [] : [paint(`[${escaped(String(context))}]`, 33)]),
    escaped(String(msg)),
    ...(told.length > 0 ? [paint(told.join(' '), 90)] : []),
  ].join(' ');
  const below =
    stack === undefined
      ? []
      : String(stack)
          .split('\n')
          .map((it) => `    ${escaped(it).trim()}`);
  return `${[line, ...below].join('\n')}\n`;
};
