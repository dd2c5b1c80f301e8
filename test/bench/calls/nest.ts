import { Transport, type ClientOptions, type MicroserviceOptions } from '@nestjs/microservices';

/** A pattern as in Nest's documentation. */
export const barePattern = { cmd: 'echo' };

/** Nest's own transport for an address, with default settings. */
export const bareOptions = (at: string): ClientOptions & MicroserviceOptions => {
  const { protocol, hostname: host, port } = new URL(at);
  switch (protocol) {
    case 'tcp:':
      return { transport: Transport.TCP, options: { host, port: Number(port) } };
    case 'redis:':
      return { transport: Transport.REDIS, options: { host, port: Number(port) } };
    case 'nats:':
      return { transport: Transport.NATS, options: { servers: [at] } };
    default:
      throw new Error(`Nest has nothing of its own for ${at}`);
  }
};
