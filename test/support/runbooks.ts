import { readFileSync } from 'node:fs';

/** The commands under a heading of docs/operations.md, verbatim. @throws Error if there are none */
export const commandsIn = (title: string, language: 'sql' | 'sh' | 'ini'): string[] => {
  const sections = readFileSync('docs/operations.md', 'utf8').split(/^#+ /m);
  const section = sections.find((it) => it.startsWith(`${title}\n`)) ?? '';
  const found = [...section.matchAll(new RegExp(`^ *\`\`\`${language}\n(.*?)^ *\`\`\``, 'gms'))].map(
    ([, text]) => text!,
  );
  if (found.length === 0) throw new Error(`docs/operations.md has no commands in ${language} under "${title}"`);
  return found;
};
