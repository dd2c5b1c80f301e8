import { readFileSync } from 'node:fs';

/** The commands under a heading of a document, verbatim. @throws Error if there are none */
export const commandsIn = (title: string, language: 'sql' | 'sh' | 'ini', file = 'docs/operations.md'): string[] => {
  const sections = readFileSync(file, 'utf8').split(/^#+ /m);
  const section = sections.find((it) => it.startsWith(`${title}\n`)) ?? '';
  const found = [...section.matchAll(new RegExp(`^ *\`\`\`${language}\n(.*?)^ *\`\`\``, 'gms'))].map(
    ([, text]) => text!,
  );
  if (found.length === 0) throw new Error(`${file} has no commands in ${language} under "${title}"`);
  return found;
};
