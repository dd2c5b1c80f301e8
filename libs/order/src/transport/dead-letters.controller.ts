import { Body, Controller, Get, HttpCode, Param, Post, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { CleaveError, deadLetterPage, deadLetterQuery, resolveDeadLetterRequest } from '#contracts';
import { CalledBy, Cursors, Endpoint, pageLimit, uuidOr, valid } from '#rest';
import type { Caller } from '#security';
import { ResolveDeadLetters } from '../use-cases/resolve-dead-letters.js';

const cursor = z.object({ after: z.uuid() });
const sagaIdParameter = z.string().meta({ description: 'A `saga_id` from the list.' });

@ApiTags('dead letters')
@Controller('dead-letters')
export class DeadLettersController {
  constructor(
    private readonly deadLetters: ResolveDeadLetters,
    private readonly cursors: Cursors,
  ) {}

  @Get()
  @Endpoint({
    scope: 'admin',
    operationId: 'listDeadLetters',
    summary: 'List dead letters',
    replies: { 200: { schema: deadLetterPage, description: 'One page' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(deadLetterQuery)) query: z.output<typeof deadLetterQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof deadLetterPage>> {
    const after = this.cursors.read(query.cursor, cursor)?.after;
    const { data, last } = await this.deadLetters.list(caller.tenant, after, pageLimit(query.limit));
    return { data, next_cursor: last === null ? null : this.cursors.write({ after: last }) };
  }

  @Post(':id/retry')
  @HttpCode(204)
  @Endpoint({
    scope: 'admin',
    operationId: 'retryDeadLetter',
    summary: 'Retry a dead letter',
    replies: { 204: { description: 'It is being retried' } },
    errors: ['dead-letter-not-found'],
  })
  retry(@Param('id', valid(sagaIdParameter)) id: string, @CalledBy() caller: Caller): Promise<void> {
    return this.deadLetters.retry(caller.tenant, knownSaga(id));
  }

  @Post(':id/resolve')
  @HttpCode(204)
  @Endpoint({
    scope: 'admin',
    operationId: 'resolveDeadLetter',
    summary: 'Close a dead letter that was dealt with elsewhere',
    replies: { 204: { description: 'The dead letter is closed' } },
    errors: ['dead-letter-not-found', 'illegal-transition'],
  })
  resolve(
    @Param('id', valid(sagaIdParameter)) id: string,
    @Body(valid(resolveDeadLetterRequest)) { note }: z.output<typeof resolveDeadLetterRequest>,
    @CalledBy() caller: Caller,
  ): Promise<void> {
    return this.deadLetters.resolve(caller.tenant, knownSaga(id), note);
  }
}

const knownSaga = (id: string): string =>
  uuidOr(id, () => new CleaveError('dead-letter-not-found', 'There is no dead letter with this id.'));
