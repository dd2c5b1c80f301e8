import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { SignJWT, exportJWK, exportSPKI, generateKeyPair, type JWK, type JWTPayload } from 'jose';

export const audience = 'cleave-api';

type Pair = Awaited<ReturnType<typeof generateKeyPair>>;

/** On an elliptic curve, or RSA as most issuers have it. */
type Algorithm = 'ES256' | 'RS256';

interface SigningKey {
  id: string;
  alg: Algorithm;
  privateKey: Pair['privateKey'];
  publicKey: Pair['publicKey'];
  jwk: JWK;
}

/** A little OpenID Connect issuer: its configuration, its keys, and tokens signed with the newest of them. */
export class Issuer {
  /** Takes what it is asked, and does not answer. */
  hangs = false;
  /** How often it was asked for anything. */
  asked = 0;
  /** Where it says that its keys are. */
  keysAt: string | undefined;

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
      const { url, keysAt = `${url}/keys` } = issuer;
      const documents: Record<string, object> = {
        '/.well-known/openid-configuration': { issuer: url, jwks_uri: keysAt },
        '/keys': { keys: keys.map(({ jwk }) => jwk) },
      };
      const found = documents[request.url ?? ''];
      response.writeHead(found ? 200 : 404, { 'content-type': 'application/json' }).end(JSON.stringify(found ?? {}));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const issuer = new Issuer(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, keys, server);
    await issuer.addKey(alg);
    return issuer;
  }

  /** Signs with another key from now on; those before stay published. */
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

  /** Publishes its first key no more. */
  withdrawKey(): void {
    this.keys.shift();
  }

  /** Its present key, as everybody can read it. */
  publicKeyText(): Promise<string> {
    return exportSPKI(this.keys.at(-1)!.publicKey);
  }

  /** A token of this issuer for this API, for ten minutes, unless the claims say something else. */
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
