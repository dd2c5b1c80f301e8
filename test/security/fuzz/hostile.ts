import { Members, Raw } from './json.js';

const repeated = (text: string, times: number): Raw => new Raw(`"${text.repeat(times)}"`);

const nested = (open: string, close: string, levels: number): Raw =>
  new Raw(`${open.repeat(levels)}0${close.repeat(levels)}`);

const raw = (...texts: string[]): Raw[] => texts.map((it) => new Raw(it));

/** Values of the wrong type or range; some of them are not valid JSON. */
export const hostileValues: readonly unknown[] = [
  ...[null, true, false, 0, -1, 1, 1.5, '', ' ', '0', '1', 'true', 'null', [], {}, [[]], [null], [{}]],
  ...raw(
    '-0',
    '-0.0',
    '1e400',
    '-1e400',
    '1e-400',
    '1E+2',
    '1.0',
    '2147483648',
    '9007199254740992',
    '-9007199254740993',
  ),
  ...raw('9223372036854775808', '1e15', '0.1e1', `1${'0'.repeat(400)}`, `0.${'0'.repeat(400)}1`),
  ...raw(
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\udc00x"',
    '"\\ud83d\\ud83d"',
    '"\\uffff"',
    '"\\u202e"',
    '"\\r\\nX-Evil: 1"',
  ),
  ...raw(
    'NaN',
    'Infinity',
    '01',
    '+1',
    '.5',
    '1.',
    '0x10',
    '--1',
    'undefined',
    "'x'",
    '\\',
    '"\t"',
    '"\u0000"',
    '/**/0',
  ),
];

export const hostileTexts: readonly unknown[] = [
  ...[
    "'; DROP TABLE orders.orders; --",
    "' OR '1'='1",
    '$1',
    '%s%n%d',
    '${jndi:ldap://127.0.0.1:1/a}',
    '{{7*7}}',
    '<script>',
  ],
  ...[
    '../../etc/passwd',
    'file:///etc/passwd',
    'http://169.254.169.254/',
    '\u001b[2J',
    'a\r\nb',
    '\u2028',
    'ﬀ',
    '🦊',
    'İ',
    'ß',
  ],
  ...[
    '__proto__',
    'constructor',
    'toString',
    'default',
    'undefined',
    'NaN',
    '-1',
    '1e3',
    '00000000-0000-0000-0000-000000000000',
  ],
  ...[
    '2026-02-30',
    '2026-13-01T00:00:00Z',
    '9999-12-31T23:59:59Z',
    '+275760-09-13T00:00:00Z',
    '0000-01-01',
    '-000001-01-01',
  ],
  ...[repeated('x', 129), repeated('x', 513), repeated('é', 1_025), repeated('x', 20_000), repeated('🦊', 5_000)],
  ...[
    repeated('\\ud800', 300),
    repeated('\\u0000', 300),
    repeated('(a+)+', 4_000),
    repeated(' ', 30_000),
    repeated('\\n', 9_000),
  ],
];

/** Used rarely, because they are large. */
export const largeValues: readonly unknown[] = [
  nested('[', ']', 33),
  nested('{"a":', '}', 40),
  nested('[', ']', 50_000),
  nested('{"a":', '}', 20_000),
  new Raw('['.repeat(100_000)),
  new Raw(`[${'0,'.repeat(50_000)}0]`),
  new Raw(`[${'{},'.repeat(2_100)}{}]`),
  new Raw(`{${Array.from({ length: 5_000 }, (_, at) => `"k${at}":0`).join(',')}}`),
  repeated('x', 900_000),
  repeated('x', 1_100_000),
];

/** Members that change the object when it is copied carelessly (prototype pollution). */
export const treacherousMembers: readonly [string, unknown][] = [
  ['__proto__', { polluted: true }],
  ['__proto__', null],
  ['constructor', { prototype: { polluted: true } }],
  ['prototype', { polluted: true }],
  ['toString', 'x'],
  ['toJSON', {}],
  ['hasOwnProperty', 1],
  ['then', 'x'],
  ['length', 4_294_967_295],
  ['$ref', '#/'],
  ['', ''],
  ['a\u0000b', 1],
  ['tenant_id', 'other'],
  ['tenant', 'other'],
  ['status', 'fulfilled'],
  ['total_minor', 0],
  [
    'nothing_of_ours',
    new Members([
      ['a', 1],
      ['a', 2],
    ]),
  ],
];

/** Parts of a path, as sent. */
export const hostileParts: readonly string[] = [
  ...[
    '%00',
    '%',
    '%zz',
    '%ff',
    '%c0%af',
    '%ED%A0%80',
    '..',
    '.',
    '%2e%2e',
    '..%2f..%2fkeys',
    '%2f',
    '%5c',
    '\\',
    '*',
    ':',
    ';a=b',
  ],
  ...[
    '__proto__',
    'constructor',
    'toString',
    'null',
    'undefined',
    '0',
    '-1',
    '1e3',
    '%20',
    '%0d%0aX-Evil:%201',
    '%1b%5b2J',
  ],
  ...["'", '"', '<', '%27%20OR%201=1--', '%F0%9F%A6%8A', 'x'.repeat(129), 'x'.repeat(1_600), '%41'.repeat(1_000), ''],
  ...['batch', 'test', 'secret', '00000000-0000-0000-0000-000000000000', '019A5F00-0000-7000-8000-00000000000A'],
];

export const hostileQueries: readonly string[] = [
  ...[
    'limit=0',
    'limit=-1',
    'limit=1e9',
    'limit=99999999999999999999',
    'limit=',
    'limit=%00',
    'limit=1&limit=2',
    'limit[]=1',
  ],
  ...[
    'cursor=',
    'cursor=AAAA',
    `cursor=${'A'.repeat(4_000)}`,
    'after=0',
    'after=%ff',
    '__proto__=1',
    '__proto__[a]=1',
    'constructor.prototype.a=1',
  ],
  ...[
    'a',
    '&&&',
    '=',
    '%',
    '%zz=1',
    '?',
    'a'.repeat(3_000),
    Array.from({ length: 900 }, (_, at) => `a${at}=`).join('&'),
    '%00=%00',
    'key=a&key=b',
  ],
];

/** Header values, as sent in latin1. */
export const hostileFields: readonly string[] = [
  ...[
    '',
    ' ',
    '"',
    '""',
    '"\\"',
    '"a" "b"',
    'a, b',
    '*',
    'W/"v1"',
    '"v1"',
    '"v999999999999999"',
    '"v-1"',
    '"v1", "v2"',
    '\t',
    'é',
    '\u00ff'.repeat(20),
  ],
  ...[
    'x'.repeat(256),
    `"${'x'.repeat(255)}"`,
    `"${'x'.repeat(256)}"`,
    'x'.repeat(8_000),
    '"'.repeat(4_000),
    '\\'.repeat(4_000),
    '"\\\\'.repeat(2_000),
  ],
  ...[
    'undefined',
    'null',
    '0',
    '-1',
    '__proto__',
    '%00',
    '${jndi:ldap://127.0.0.1:1/a}',
    'a;q=0.1,*/*;q=2',
    'text/event-stream, text/event-stream',
  ],
];
