/** The number of parts that the readers of a log share. Checkpoints are stored by part, so it must never change. */
export const partCount = 8;

/** The part of a subject (FNV-1a). All events of a subject are in the same part, so that they stay in order. */
export const partOf = (subject: string): number => {
  let hash = 0x811c9dc5;
  for (let at = 0; at < subject.length; at += 1) hash = Math.imul(hash ^ subject.charCodeAt(at), 0x01000193);
  return ((hash ^ (hash >>> 16)) >>> 0) % partCount;
};
