export class NoAnswer extends Error {
  override readonly name = 'NoAnswer';
}

/** @throws NoAnswer if it takes longer than `ms` milliseconds; what it results in after that is ignored */
export const within = async <Answer>(ms: number, answer: Promise<Answer>): Promise<Answer> => {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new NoAnswer(`no answer within ${ms} ms`)), ms);
  try {
    return await Promise.race([answer, late.promise]);
  } finally {
    clearTimeout(timer);
  }
};
