/** The first one is the default. */
export const logLevels = ['info', 'fatal', 'error', 'warn', 'debug', 'trace'] as const;
export type LogLevel = (typeof logLevels)[number];

export const logFormats = ['json', 'text'] as const;
export type LogFormat = (typeof logFormats)[number];

const hidden = '***';

/** What people who read logs must not see, wherever it appears in a text. */
const secrets: readonly [RegExp, string][] = [
  // User and password in an address, also if several hosts share one scheme.
  [/:\/\/[^\s/"']+@/g, `://${hidden}@`],
  [/\b(bearer|basic)\s+[\w.~+/=-]{6,}/gi, `$1 ${hidden}`],
  // Keys of ours, whose id may be shown, of Stripe and of Standard Webhooks; also percent-encoded, as in addresses.
  [/(ck(?:_|%(?:25)*5f)[\da-f]{32})(?:_|%(?:25)*5f)[\da-f]{8,}/gi, `$1_${hidden}`],
  [/((?:\b|%(?:25)*[\dA-Fa-f]{2})(?:sk|rk|whsec))(?:_|%(?:25)*5[Ff])[\w+/=%-]{8,}/g, `$1_${hidden}`],
  [
    /\b(password|secret|token|api[_-]?key|authorization)(["']?\s*[:=]\s*["']?)(?!\*\*\*|bearer|basic)[^\s"',;&]+/gi,
    `$1$2${hidden}`,
  ],
];

/**
 * A JSON Web Token, signed or encrypted (RFC 7516, five parts of which the second may be empty), with what may follow it
 * (RFC 9901, `~`), also in plain base64. A prefix of one matches as well: otherwise the search would start again within
 * it, in quadratic time if there are many.
 */
const webToken = /\beyJ[\w+/-]{6,}(={0,2}\.[\w+/=-]*\.[\w.~+/=-]*)?/g;

const withoutWebTokens = (text: string): string =>
  text.replace(webToken, (found, rest: string | undefined) => (rest === undefined ? found : hidden));

/** Nobody reads more of a longer text, and searching it for secrets would block the event loop. */
const longest = 8_192;

/** Web tokens are masked last: their masks would keep patterns that cover more of the text from matching. */
export const withoutSecrets = (text: string): string =>
  withoutWebTokens(
    secrets.reduce(
      (rest, [pattern, replacement]) => rest.replace(pattern, replacement),
      text.length > longest ? `${text.slice(0, longest)} … (${text.length - longest} characters more)` : text,
    ),
  );

/** Control characters, and those that change how the text after them is displayed. */
const unseen = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

const escaped = (text: string): string =>
  text.replace(unseen, (character) => {
    if (character === '\n') return '\\n';
    if (character === '\t') return '\\t';
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });

/** JSON does not escape all of these, and viewers may take some for the end of a line. */
export const asJson = (json: string): string =>
  `${json.trimEnd().replace(unseen, (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, '0')}`)}\n`;

const colours: Record<LogLevel, number> = { fatal: 31, error: 31, warn: 33, info: 32, debug: 36, trace: 90 };

/** A line of JSON in readable form. Nothing that was logged can begin a line: a stack follows indented. */
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
