/** What everything is answered with, as bytes and as what they say. */
export const answer = { bytes: Buffer.from('{}'), value: {} as unknown };
