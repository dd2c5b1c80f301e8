import { randomBytes } from 'node:crypto';
import { scopes, type IssuedKey } from '#contracts';
import { Api, ok, type Answer, type Sent } from '../support/api.js';
import { GrpcApi } from '../support/grpc.js';
import { servicePorts, startShape, type Shape, type ShapeName } from '../support/shapes.js';
import { Issuer, audience } from './issuer.js';

/** A running system with authentication on. */
export interface World {
  shape: Shape;
  api: Api;
  grpc: GrpcApi;
  issuer: Issuer;
  admin: string;
  /** The SERVICE_SECRET of gateway and services. */
  secret: string;
  stop(): Promise<void>;
}

const newSecret = (): string => randomBytes(32).toString('hex');

/** @param more further environment variables of every process */
export const startWorld = async (name: ShapeName, more: Record<string, string> = {}): Promise<World> => {
  const issuer = await Issuer.start();
  const admin = newSecret();
  const secret = newSecret();
  const [port] = await servicePorts(1);
  const grpcAt = `127.0.0.1:${port}`;
  const shape = await startShape(name, {
    ...more,
    ORDER_GRPC_LISTEN: grpcAt,
    ...{ ADMIN_KEY: admin, OIDC_ISSUER: issuer.url, OIDC_AUDIENCE: audience },
    ...(name !== 'monolith' && { SERVICE_SECRET: secret }),
  });
  const grpc = new GrpcApi(grpcAt);
  const stop = async (): Promise<void> => {
    grpc.close();
    await issuer.stop();
    await shape.stop();
  };
  return { shape, api: new Api(shape.baseUrl), grpc, issuer, admin, secret, stop };
};

export const bearer = (credential: string): Sent => ({ headers: { authorization: `Bearer ${credential}` } });

export type KeyWanted = { tenant?: string; scopes?: readonly string[]; account?: string; expires_at?: string };

/** A key with all scopes, unless `wanted` says otherwise. */
export const keyFor = async ({ api, admin }: World, wanted: KeyWanted = {}): Promise<IssuedKey> => {
  const body = { name: 'of a test', scopes, ...wanted };
  return ok(await api.send<IssuedKey>('POST', '/keys', { ...bearer(admin), body }), 201);
};

/** What a caller sees of an answer, without the headers that differ every time. */
export const seen = ({ status, headers, text }: Answer): object => ({
  status,
  text,
  headers: Object.fromEntries(
    [...headers].filter(([name]) => !['date', 'connection', 'keep-alive', 'x-request-id'].includes(name)),
  ),
});

/** A caller with a credential. */
export class As {
  constructor(
    private readonly api: Api,
    private readonly credential: string,
  ) {}

  send<Body = unknown>(method: string, path: string, { headers, ...sent }: Sent = {}): Promise<Answer<Body>> {
    return this.api.send<Body>(method, path, { ...sent, headers: { ...bearer(this.credential).headers, ...headers } });
  }
}
