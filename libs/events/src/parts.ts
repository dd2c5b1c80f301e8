/** Into how many parts the readers of a log share it. Checkpoints are kept by part, so it stays as it is. */
export const partCount = 8;

/** The part that the events of a subject go by (FNV-1a): all of them by the same, so that they stay in their order. */
export const partOf = (subject: string): number => {
  let hash = 0x811c9dc5;
  for (let at = 0; at < subject.length; at += 1) hash = Math.imul(hash ^ subject.charCodeAt(at), 0x01000193);
  return ((hash ^ (hash >>> 16)) >>> 0) % partCount;
};
