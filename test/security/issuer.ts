import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { SignJWT, exportJWK, exportSPKI, generateKeyPair, type JWK, type JWTPayload } from 'jose';

export const audience = 'cleave-api';

type Pair = Awaited<ReturnType<typeof generateKeyPair>>;

/** An elliptic curve, or RSA, which most issuers use. */
type Algorithm = 'ES256' | 'RS256';

interface SigningKey {
  id: string;
  alg: Algorithm;
  privateKey: Pair['privateKey'];
  publicKey: Pair['publicKey'];
  jwk: JWK;
}

/** A minimal OpenID Connect issuer: discovery document, JWKS, and tokens signed with the newest key. */
export class Issuer {
  /** Accepts requests but does not answer. */
  hangs = false;
  /** The number of requests received. */
  asked = 0;
  /** Overrides the `jwks_uri` of the discovery document. */
  keysAt: string | undefined;
  /** Overrides the `issuer` of the discovery document. */
  name: string | undefined;
  /** The discovery document redirects there. */
  movedTo: string | undefined;

  private constructor(
    readonly url: string,
    private readonly keys: SigningKey[],
    private readonly server: ReturnType<typeof createServer>,
  ) {}

  static async start(alg?: Algorithm): Promise<Issuer> {
    const keys: SigningKey[] = [];
    const server = createServer((request, response) => {
      issuer.asked += 1;
      if (issuer.hangs) return;
      const { url, keysAt = `${url}/keys`, name = url, movedTo } = issuer;
      const documents: Record<string, object> = {
        '/.well-known/openid-configuration': { issuer: name, jwks_uri: keysAt },
        '/keys': { keys: keys.map(({ jwk }) => jwk) },
      };
      if (movedTo !== undefined && request.url !== '/keys') {
        response.writeHead(302, { location: movedTo }).end();
        return;
      }
      const found = documents[request.url ?? ''];
      response.writeHead(found ? 200 : 404, { 'content-type': 'application/json' }).end(JSON.stringify(found ?? {}));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const issuer = new Issuer(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, keys, server);
    await issuer.addKey(alg);
    return issuer;
  }

  /** Signs with a new key from now on; the previous keys stay published. */
  async addKey(alg: Algorithm = 'ES256'): Promise<void> {
    const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
    const id = `key-${this.keys.length + 1}`;
    this.keys.push({
      id,
      alg,
      privateKey,
      publicKey,
      jwk: { ...(await exportJWK(publicKey)), kid: id, alg, use: 'sig' },
    });
  }

  /** Stops publishing the oldest key. */
  withdrawKey(): void {
    this.keys.shift();
  }

  /** The current public key, in PEM. */
  publicKeyText(): Promise<string> {
    return exportSPKI(this.keys.at(-1)!.publicKey);
  }

  /** A token of this issuer for this API, valid for ten minutes unless `claims` say otherwise. */
  token({ tenant, scope, ...claims }: { tenant?: string; scope?: string } & JWTPayload): Promise<string> {
    const now = Math.floor(Date.now() / 1_000);
    const usual = { iss: this.url, aud: audience, sub: 'someone', iat: now, exp: now + 600 };
    const { id, alg, privateKey } = this.keys.at(-1)!;
    return new SignJWT({
      ...usual,
      ...(tenant !== undefined && { tenant }),
      ...(scope !== undefined && { scope }),
      ...claims,
    })
      .setProtectedHeader({ alg, kid: id })
      .sign(privateKey);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }
}
