/** A problem document (RFC 9457). */
export interface ProblemDocument {
  type?: string;
  title?: string;
  status?: number;
  code?: string;
  detail?: string;
  faults?: { path: string; message: string }[];
  [extension: string]: unknown;
}

/** The request was refused, or there was no answer. Decide by `code`, which is stable. */
export class CleaveApiError extends Error {
  override readonly name = 'CleaveApiError';

  /**
   * @param code of the problem document; `http-<status>` if there is none, `no-answer` if there was no response
   * @param detail what happened and what to do next, for a person to read
   * @param tries how often the request was sent
   */
  constructor(
    readonly code: string,
    readonly detail: string,
    readonly tries: number,
    private readonly answer?: { status: number; headers: Headers; problem: ProblemDocument },
    options?: ErrorOptions,
  ) {
    super(`${code}: ${detail}`, options);
  }

  /** The HTTP status; undefined if there was no response. */
  get status(): number | undefined {
    return this.answer?.status;
  }

  get headers(): Headers {
    return this.answer?.headers ?? new Headers();
  }

  /** The whole problem document, with further members that depend on the code, such as `products` of `out-of-stock`. */
  get problem(): ProblemDocument {
    return this.answer?.problem ?? {};
  }

  /** Each fault of an invalid request: its path and what is wrong there. */
  get faults(): { path: string; message: string }[] {
    return this.problem.faults ?? [];
  }

  /** The id under which the server logs the request, if it gives one. */
  get requestId(): string | undefined {
    return this.headers.get('x-request-id') ?? undefined;
  }
}

/** The error for a response that is not successful, or that is not one of the API. */
export const errorOf = async (response: Response, tries: number): Promise<CleaveApiError> => {
  const text = await response.text();
  const problem = objectIn(text);
  const { status, headers } = response;
  const said = headers.get('location') ?? (text === '' ? response.statusText : text.slice(0, 500));
  // 304 is an answer of the API, to a caller that sent `If-None-Match`.
  const isElsewhere = status < 400 && status !== 304;
  // Of a redirect, browsers tell neither the status nor the location.
  const where = said === '' ? 'another place' : said;
  const detail = problem.detail ?? (isElsewhere ? `The base URL does not lead to the API, but to: ${where}` : said);
  return new CleaveApiError(problem.code ?? `http-${status}`, detail, tries, { status, headers, problem });
};

const objectIn = (text: string): ProblemDocument => {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' ? (value as ProblemDocument) : {};
  } catch {
    return {};
  }
};
