import { globSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import ts from 'typescript';
import type { SeededRandom } from '#testing';
import { randomOf } from '../support/fresh.js';

interface Found {
  where: string;
  pattern: RegExp;
}

/** Every regular expression that is written down in what runs. */
const found: Found[] = globSync('{libs,apps}/*/src/**/*.ts')
  .filter((file) => !file.startsWith('libs/testing/'))
  .flatMap((file) => {
    const source = ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true);
    const patterns: Found[] = [];
    const look = (node: ts.Node): void => {
      if (ts.isRegularExpressionLiteral(node)) {
        const [, text, flags] = /^\/(.*)\/([a-z]*)$/s.exec(node.text)!;
        const { line } = source.getLineAndCharacterOfPosition(node.getStart());
        patterns.push({ where: `${file}:${line + 1} ${node.text}`, pattern: new RegExp(text!, flags) });
      }
      ts.forEachChild(node, look);
    };
    look(source);
    return patterns;
  });

/** Growing, so that what doubles with each character is found before it takes for ever. */
const lengths = [26, 256, 1_024, 4_096, 65_536];
/** Of one that looks at each character a few times. What grows with the square takes seconds at the last length. */
const withinMs = 150;

/** Texts that fit the pattern, as far as such can be made of it. */
const fittingTexts = (pattern: RegExp, seed: number): string[] => {
  // Ends of words cannot be made, but come by themselves where it begins.
  const source = `^(?:${pattern.source.replaceAll(String.raw`\b`, '')})`;
  try {
    return fc.sample(fc.stringMatching(new RegExp(source, pattern.flags.replaceAll(/[giyd]/g, ''))), {
      numRuns: 12,
      seed,
    });
  } catch {
    // It has parts that none can be made of; what is written in it has to do.
    return [];
  }
};

/** A long text is `begin`, then `part` again and again, then an `end`. */
type Attack = { begin: string; part: string };

/** What long texts are made of that nearly fit: a part of one that does, after what comes before it. */
const attacks = (pattern: RegExp, random: SeededRandom): Attack[] => {
  const written = pattern.source.replaceAll(/\\[dws]/g, (it) => ({ '\\d': '0', '\\w': 'a', '\\s': ' ' })[it]!);
  const characters = [...new Set(`${written}a0 "\\.,:/=-_@%\n\t`.split(''))];
  const fitting = fittingTexts(pattern, random.integer(0, 2 ** 31 - 1)).filter((it) => it !== '');
  const ofFitting = fitting.flatMap((text) =>
    Array.from({ length: 4 }, () => {
      const from = random.integer(0, text.length - 1);
      const to = random.integer(from + 1, text.length);
      return { begin: text.slice(0, to), part: text.slice(from, to) };
    }),
  );
  // A beginning that fits, and what keeps it from going on so: once and for all, or time after time.
  const ofBeginnings = fitting.slice(0, 6).flatMap((text) => {
    const begin = text.slice(0, random.integer(1, text.length));
    return [...new Set(written)].flatMap((it) => [
      { begin, part: it },
      { begin: '', part: begin + it },
    ]);
  });
  const parts = [...characters, ...characters.map((it) => it + random.pick(characters))];
  return [...parts.map((part) => ({ begin: '', part })), ...ofFitting, ...ofBeginnings];
};

const msOf = (pattern: RegExp, text: string): number => {
  pattern.lastIndex = 0;
  const startedAt = performance.now();
  if (pattern.global) text.replace(pattern, '');
  else pattern.test(text);
  return performance.now() - startedAt;
};

/** A text over which it takes too long, if there is one. */
const slowest = (pattern: RegExp, random: SeededRandom): string | undefined => {
  for (const { begin, part } of attacks(pattern, random))
    for (const length of lengths)
      for (const end of ['', '\u0000', '!']) {
        const text = begin + part.repeat(Math.ceil(length / part.length)).slice(0, length) + end;
        // Once more, because another process may have been at it.
        if (msOf(pattern, text) >= withinMs && msOf(pattern, text) >= withinMs)
          return `${JSON.stringify(text.slice(0, 40))}…${JSON.stringify(end)}, ${length} long`;
      }
  return undefined;
};

describe('a regular expression', () => {
  it('takes its time by the length of the text, whatever the text is', () => {
    const random = randomOf('regular expressions');
    expect(found.length).toBeGreaterThan(50);
    const slow = found.flatMap(({ where, pattern }) => {
      const text = slowest(pattern, random);
      return text === undefined ? [] : [`${where} over ${text}`];
    });
    expect(slow).toEqual([]);
  });

  it.each([
    /^(?:a+)+$/,
    /\s+$/,
    /\bab[\w-]{6,}\.c/,
    /a:[^@]+(?::[^@]*)?@/,
    /^(?:\d+,?)+$/,
    /^(?:[a-z]|[a-y])*$/,
    /x.*y.*z$/,
  ])('would be found here if it did not: %s', (bad) => {
    expect(slowest(bad, randomOf('bad ones'))).toBeDefined();
  });
});
