import { Controller, Get, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { auditPage, auditQuery } from '#contracts';
import { CalledBy, Cursors, Endpoint, pageLimit, valid } from '#rest';
import type { Caller } from '#security';
import { AuditTrail } from '../use-cases/read-audit.js';
import { tenantFor } from './keys.controller.js';

const cursor = z.object({ entry: z.int() });

@ApiTags('audit')
@Controller('audit')
export class AuditController {
  constructor(
    private readonly trail: AuditTrail,
    private readonly cursors: Cursors,
  ) {}

  @Get()
  @Endpoint({
    scope: 'admin',
    operationId: 'listAuditEntries',
    summary: 'Read the audit log, oldest entry first',
    description:
      'Covers sensitive operations: keys, personal data, manual payments, stock counts, webhooks, dead letters. ' +
      'Entries are never changed and never removed.',
    replies: { 200: { schema: auditPage, description: 'One page of entries' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(auditQuery)) query: z.output<typeof auditQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof auditPage>> {
    const after = this.cursors.read(query.after, cursor)?.entry ?? 0;
    const data = await this.trail.after(tenantFor(caller, query.tenant), after, pageLimit(query.limit));
    return { data, next_cursor: this.cursors.write({ entry: data.at(-1)?.entryId ?? after }) };
  }
}
