import { Controller, Delete, Get, Header, Param, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { z } from 'zod';
import { customerExport, customerIdParameter, erasure, exportQuery } from '#contracts';
import { CalledBy, Cursors, Endpoint, pageLimit, valid } from '#rest';
import type { Caller } from '#security';
import { ExportAndErasePersonalData } from '../use-cases/export-and-erase-personal-data.js';
import { historyCursorOf, orderCursor } from './requests.js';

@ApiTags('customers')
@Controller('customers')
export class CustomersController {
  constructor(
    private readonly customers: ExportAndErasePersonalData,
    private readonly cursors: Cursors,
  ) {}

  @Get(':id/export')
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'personal:read',
    operationId: 'exportCustomer',
    summary: 'Export everything that is kept about the orders of a customer',
    description:
      'Orders come newest first, each with its payment, the first page of its history, and its personal data ' +
      'unless that was erased. A page of large orders has fewer entries.',
    replies: { 200: { schema: customerExport, description: 'One page' } },
    errors: ['customer-not-found', 'invalid-cursor', 'data-key-missing'],
  })
  async export(
    @Param('id', valid(customerIdParameter)) customerId: string,
    @Query(valid(exportQuery)) query: z.output<typeof exportQuery>,
    @CalledBy() { tenant }: Caller,
  ): Promise<z.output<typeof customerExport>> {
    const before = this.cursors.read(query.cursor, orderCursor)?.before;
    const { data, last } = await this.customers.export({ tenant, customerId }, before, pageLimit(query.limit));
    return {
      data: data.map(({ history, ...order }) => ({
        ...order,
        history: history.data,
        history_cursor: historyCursorOf(this.cursors, history.last),
      })),
      next_cursor: last === null ? null : this.cursors.write({ before: last }),
    };
  }

  @Delete(':id')
  @Endpoint({
    scope: 'personal:erase',
    operationId: 'eraseCustomer',
    summary: 'Erase the personal data of a customer for good',
    description:
      'Destroys the key that encrypts the contacts and shipping addresses of all orders of the customer. The ' +
      'orders stay, with their totals and their history. Orders placed afterwards use a new key.',
    replies: { 200: { schema: erasure, description: 'There is no personal data of the customer any more' } },
    errors: ['customer-not-found'],
  })
  async erase(
    @Param('id', valid(customerIdParameter)) customerId: string,
    @CalledBy() { tenant }: Caller,
  ): Promise<z.output<typeof erasure>> {
    return { customer_id: customerId, erased: await this.customers.erase({ tenant, customerId }) };
  }
}
