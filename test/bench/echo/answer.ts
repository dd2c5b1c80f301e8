/** The answer to every request, as bytes and as a value. */
export const answer = { bytes: Buffer.from('{}'), value: {} as unknown };
