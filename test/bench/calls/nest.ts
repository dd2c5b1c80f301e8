import { Transport, type ClientOptions, type MicroserviceOptions } from '@nestjs/microservices';

/** As Nest's own documentation writes patterns. */
export const barePattern = { cmd: 'echo' };

/** What Nest brings for the transport of an address, as it is when nothing is set. */
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
