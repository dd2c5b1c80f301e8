/** Whose HTTP server it is, with one route where it has routes, and nothing in front of it. */
export const echoNames = { node: 'echo', fastify: 'fastify', nest: 'nest' } as const;
export type EchoServer = keyof typeof echoNames;

export type EchoCommands = {
  /** @returns the address */
  listen(argument: { server: EchoServer }): Promise<string>;
  /** What every request is answered with from now on. */
  answerWith(argument: { text: string }): void;
};
