export type EchoCommands = {
  /** @returns the address */
  listen(argument: undefined): Promise<string>;
  /** What every request is answered with from now on. */
  answerWith(argument: { text: string }): void;
};
