import { Module, Optional, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import type { z } from 'zod';
import { env } from '#config';
import { CleaveError } from '#contracts';
import { InjectSql, Sql, databaseFor, type Database } from '#database';
import { Readiness } from '#health';
import { within } from '#periodic';
import { cursorsIn } from '#rest';
import { Authenticator } from '#security';
import { Keys1764000000007 } from '../migrations/1-keys.js';
import { Audit1764000000035 } from '../migrations/2-audit.js';
import { KeyFamilies1764000000037 } from '../migrations/3-families.js';
import { CountedRefusals1764000000039 } from '../migrations/4-refusals.js';
import { ListeningDirectory, accessDatabaseUrl } from './adapters/listening-directory.js';
import { PostgresAudit } from './adapters/postgres-audit.js';
import { PostgresKeys } from './adapters/postgres-keys.js';
import { AuditController } from './transport/audit.controller.js';
import { KeysController } from './transport/keys.controller.js';
import { AuditEntries, KeepAudit } from './use-cases/keep-audit.js';
import { KeyChanges, Keys, ManageKeys } from './use-cases/manage-keys.js';
import { AuditTrail } from './use-cases/read-audit.js';

/** The environment variables of access. */
export const accessEnvironment = { ACCESS_DATABASE_URL: env.postgresUrl };

/** The database of access. */
export const accessDatabase = (url: string): Database => ({
  name: 'access',
  url,
  schema: 'access',
  entities: [],
  migrations: [...[Keys1764000000007, Audit1764000000035, KeyFamilies1764000000037], CountedRefusals1764000000039],
  // Four for key lookups and two for the audit log; both are rarely busy at once, so managing keys shares them.
  poolSize: 6,
});

/** Less than a check of readiness may take: what hangs is as good as not there, and no reason to answer nobody. */
const askedWithinMs = 500;

type AccessSettings = z.output<z.ZodObject<typeof accessEnvironment>>;

/** API keys, and the audit log of sensitive operations. */
@Module({})
export class AccessModule implements OnModuleInit {
  private asking: ReturnType<Sql['condition']> | undefined;

  constructor(
    @InjectSql('access') private readonly sql: Sql,
    private readonly readiness: Readiness,
    private readonly authenticator: Authenticator,
    private readonly directory: ListeningDirectory,
    @Optional() private readonly audit?: KeepAudit,
  ) {}

  onModuleInit(): void {
    this.readiness.add('access-database', () => this.condition());
    this.authenticator.useKeys(this.directory);
    this.authenticator.auditLog = this.audit;
  }

  /** For the process that callers reach: manages keys, recognises them and writes the audit log. */
  static register(settings: AccessSettings): DynamicModule {
    const known = this.knowing(settings);
    return {
      ...known,
      controllers: [KeysController, AuditController],
      providers: [
        ...known.providers!,
        ...[ManageKeys, KeepAudit, PostgresAudit],
        ...[AuditEntries, AuditTrail].map((port) => ({ provide: port, useExisting: PostgresAudit })),
        { provide: Keys, useExisting: PostgresKeys },
        { provide: KeyChanges, useExisting: ListeningDirectory },
        cursorsIn('access', 'access'),
      ],
    };
  }

  /** For another process that only has to recognise keys. */
  static knowing({ ACCESS_DATABASE_URL: url }: AccessSettings): DynamicModule {
    return {
      module: AccessModule,
      imports: [databaseFor(accessDatabase(url))],
      providers: [PostgresKeys, ListeningDirectory, { provide: accessDatabaseUrl, useValue: url }],
    };
  }

  /** Degraded, but still ready: remembered keys and tokens stay valid, and other instances would do no better. */
  private async condition(): Promise<{ isDegraded: boolean; details: Record<string, unknown> }> {
    // One at a time: if the database hangs, each query keeps its connection for longer than this check waits.
    this.asking ??= this.sql.condition().finally(() => (this.asking = undefined));
    const failure = await within(askedWithinMs, this.asking).then(
      () => undefined,
      (error: unknown) => ({ why: error instanceof CleaveError ? ` ${error.detail}` : '' }),
    );
    const { whyDeaf } = this.directory;
    if (failure) return { isDegraded: true, details: { keys: `cannot be looked up.${failure.why}` } };
    return { isDegraded: whyDeaf !== undefined, details: whyDeaf === undefined ? {} : { keys: whyDeaf } };
  }
}
