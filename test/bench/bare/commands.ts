export type BareCommands = {
  /** Creates the tables and listens. @returns the address */
  listen(argument: { databaseUrl: string }): Promise<string>;
};
