import { Body, Controller, Delete, Get, Header, HttpCode, Param, Post, Query, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { createKeyRequest, issuedKey, keyPage, keyQuery, rotateKeyRequest, type IssuedKey } from '#contracts';
import { CalledBy, Cursors, Endpoint, pageLimit, uuidOr, valid } from '#rest';
import { allow, type Caller } from '#security';
import { ManageKeys, keyNotFound } from '../use-cases/manage-keys.js';

const keyIdParameter = z.string().meta({
  description: 'The `key_id` of the key, or the 32 hexadecimal digits that follow `ck_` in the key.',
});
const inKey = /^(?:ck_)?([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})(?:_[0-9a-f]{64})?$/;
const cursor = z.object({ before: z.uuid() });
const madeHeaders = { Location: 'The address of the key' };

@ApiTags('keys')
@Controller('keys')
export class KeysController {
  constructor(
    private readonly manageKeys: ManageKeys,
    private readonly cursors: Cursors,
  ) {}

  @Post()
  @HttpCode(201)
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'admin',
    operationId: 'createKey',
    summary: 'Create a key',
    description: 'The key itself is shown only in this answer.',
    replies: { 201: { schema: issuedKey, description: 'The key', headers: madeHeaders } },
    errors: ['too-many-keys'],
  })
  async create(
    @Body(valid(createKeyRequest)) body: z.output<typeof createKeyRequest>,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<IssuedKey> {
    const key = await this.manageKeys.issue(tenantFor(caller, body.tenant), body);
    reply.header('Location', `/keys/${key.key_id}`);
    return key;
  }

  @Get()
  @Endpoint({
    scope: 'admin',
    operationId: 'listKeys',
    summary: 'List keys, newest first',
    replies: { 200: { schema: keyPage, description: 'One page of keys, including those that are no longer valid' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(keyQuery)) query: z.output<typeof keyQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof keyPage>> {
    const before = this.cursors.read(query.cursor, cursor)?.before;
    const { data, last } = await this.manageKeys.list(tenantFor(caller, query.tenant), before, pageLimit(query.limit));
    return { data, next_cursor: last === null ? null : this.cursors.write({ before: last }) };
  }

  @Post(':key_id/rotate')
  @HttpCode(201)
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'admin',
    operationId: 'rotateKey',
    summary: 'Replace a key by a new one',
    description: 'The new key has the same scopes and the same account. The old key stays valid for the time given.',
    replies: { 201: { schema: issuedKey, description: 'The new key, which is shown only in this answer' } },
    errors: ['key-not-found', 'illegal-transition', 'too-many-keys'],
  })
  rotate(
    @Param('key_id', valid(keyIdParameter)) id: string,
    @Body(valid(rotateKeyRequest)) body: z.output<typeof rotateKeyRequest>,
    @CalledBy() caller: Caller,
  ): Promise<IssuedKey> {
    return this.manageKeys.rotate(reachOf(caller), keyIdOf(id), body.overlap_seconds);
  }

  @Delete(':key_id')
  @HttpCode(204)
  @Endpoint({
    scope: 'admin',
    operationId: 'revokeKey',
    summary: 'Revoke a key, immediately and for good',
    replies: { 204: { description: 'The key is no longer valid' } },
    errors: ['key-not-found'],
  })
  revoke(@Param('key_id', valid(keyIdParameter)) id: string, @CalledBy() caller: Caller): Promise<void> {
    return this.manageKeys.revoke(reachOf(caller), keyIdOf(id));
  }
}

/** Accepts the key itself in place of its id: a person who revokes a leaked key must not be told that it does not exist. */
const keyIdOf = (text: string): string => uuidOr(text.replace(inKey, '$1-$2-$3-$4-$5'), keyNotFound);

/** @throws CleaveError `forbidden` for another tenant than the caller's own, unless the caller is an operator */
export const tenantFor = (caller: Caller, wanted: string | undefined): string => {
  if (wanted !== undefined && wanted !== caller.tenant) allow(caller, 'operator');
  return wanted ?? caller.tenant;
};

/** The tenant whose keys the caller can address by id; undefined for all tenants. */
const reachOf = (caller: Caller): string | undefined => (caller.scopes.has('operator') ? undefined : caller.tenant);
