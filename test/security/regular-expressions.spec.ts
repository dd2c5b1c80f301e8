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

/** Every regular expression literal in the code of the processes. */
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

/** Increasing, so that patterns of every kind are found on the shortest text that shows them, and not after minutes. */
const lengths = [24, 26, 256, 1_024, 4_096, 16_384, 32_768, 65_536];
const longest = lengths.at(-1)!;
/** For a pattern that looks at each character a few times. A quadratic one takes seconds at the greatest length. */
const withinMs = 150;

/** Texts that match the pattern, if fast-check can generate them. */
const fittingTexts = (pattern: RegExp, seed: number): string[] => {
  // fast-check cannot generate word boundaries; the start of the text is one anyway.
  const source = `^(?:${pattern.source.replaceAll(String.raw`\b`, '')})`;
  try {
    return fc.sample(fc.stringMatching(new RegExp(source, pattern.flags.replaceAll(/[giyd]/g, ''))), {
      numRuns: 12,
      seed,
    });
  } catch {
    // fast-check does not support some part of the pattern; characters of its source are used instead.
    return [];
  }
};

/** A long text is `begin`, then `part` repeated, then an end. */
type Attack = { begin: string; part: string };

/** Long texts that almost match: a repeated part of a matching text, after the part before it. */
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
  // A matching beginning, followed or interleaved with characters that prevent the match.
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

/** A text on which the pattern is too slow, if there is one. */
const slowest = (pattern: RegExp, random: SeededRandom): string | undefined => {
  for (const { begin, part } of attacks(pattern, random))
    for (const end of ['', '\u0000', '!'])
      for (const length of lengths) {
        const text = begin + part.repeat(Math.ceil(length / part.length)).slice(0, length) + end;
        const ms = msOf(pattern, text);
        // Measured twice, because another process may have used the CPU.
        if (ms >= withinMs && msOf(pattern, text) >= withinMs)
          return `${JSON.stringify(text.slice(0, 40))}…${JSON.stringify(end)}, ${length} long`;
        // Longer texts would be fast enough even if the time grew with the square of the length.
        if (ms * (longest / length) ** 2 < withinMs) break;
      }
  return undefined;
};

describe('regular expressions', () => {
  it('take time linear in the length of the text', () => {
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
  ])('are found to be slow here: %s', (bad) => {
    expect(slowest(bad, randomOf('bad ones'))).toBeDefined();
  });
});
