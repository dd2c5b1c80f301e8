/** HTTP servers with one route, if they have routes, and nothing in front of it; `socket` does not even parse HTTP. */
export const echoNames = { node: 'echo', fastify: 'fastify', nest: 'nest', socket: 'socket' } as const;
export type EchoServer = keyof typeof echoNames;

export type EchoCommands = {
  /** @returns the address */
  listen(argument: { server: EchoServer }): Promise<string>;
  /** Sets the answer to all further requests. */
  answerWith(argument: { text: string }): void;
};
