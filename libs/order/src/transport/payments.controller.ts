import { Body, Controller, Get, HttpCode, Param, Post, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import type { z } from 'zod';
import { captureRequest, moneyMove, orderIdParameter, payment, refundRequest, type MoneyMove } from '#contracts';
import { CalledBy, Endpoint, type EndpointOptions, IdempotencyKey, IfMatch, valid } from '#rest';
import type { Caller } from '#security';
import { MoveMoney, type MoneyCommand } from '../use-cases/move-money.js';
import { ReadOrders } from '../use-cases/read-orders.js';
import { keyedChange, orderIdIn } from './requests.js';

const moving = {
  replies: { 201: { schema: moneyMove, description: 'The outcome' } },
  errors: ['order-not-found', 'payment-not-found', 'payment-refused', 'precondition-failed', 'idempotency-key-reused'],
  idempotencyKey: 'required',
  admittedAs: 'money',
} satisfies Partial<EndpointOptions>;

/** Who asks for a move of money, under which key, and on which condition. */
interface Asked extends Pick<MoneyCommand, 'idempotencyKey' | 'expectedVersions'> {
  caller: Caller;
}

@ApiTags('payments')
@Controller()
export class PaymentsController {
  constructor(
    private readonly readOrders: ReadOrders,
    private readonly moveMoney: MoveMoney,
  ) {}

  @Get('orders/:id/payment')
  @Endpoint({
    scope: 'payments:read',
    operationId: 'getPayment',
    summary: 'Read the payment of an order',
    replies: { 200: { schema: payment, description: 'The payment' } },
    errors: ['order-not-found', 'payment-not-found'],
  })
  payment(
    @Param('id', valid(orderIdParameter)) id: string,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof payment>> {
    return this.readOrders.payment(caller.tenant, orderIdIn(id));
  }

  @Post('orders/:id/captures')
  @HttpCode(201)
  @Endpoint({
    scope: 'payments:write',
    operationId: 'capturePayment',
    summary: 'Capture an authorised payment, or record that it arrived',
    description:
      'For orders that are paid on account; the payments of other orders are captured when they are confirmed. ' +
      'If what remained of the order was cancelled, the amount is required.',
    ...moving,
  })
  capture(
    @Param('id', valid(orderIdParameter)) id: string,
    @Body(valid(captureRequest)) { amount_minor }: z.output<typeof captureRequest>,
    @IdempotencyKey({ required: true }) idempotencyKey: string,
    @IfMatch() expectedVersions: readonly number[] | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<MoneyMove> {
    const orderId = orderIdIn(id);
    const command = { kind: 'capture' as const, orderId, amountMinor: amount_minor ?? null };
    return this.move(command, { caller, idempotencyKey, expectedVersions }, reply);
  }

  @Post('orders/:id/refunds')
  @HttpCode(201)
  @Endpoint({
    scope: 'payments:write',
    operationId: 'refundPayment',
    summary: 'Refund a payment',
    description: 'Never more than was captured. This does not take goods back; that is a return.',
    ...moving,
  })
  refund(
    @Param('id', valid(orderIdParameter)) id: string,
    @Body(valid(refundRequest)) { amount_minor, reason }: z.output<typeof refundRequest>,
    @IdempotencyKey({ required: true }) idempotencyKey: string,
    @IfMatch() expectedVersions: readonly number[] | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<MoneyMove> {
    const orderId = orderIdIn(id);
    const command = { kind: 'refund' as const, orderId, amountMinor: amount_minor, reason };
    return this.move(command, { caller, idempotencyKey, expectedVersions }, reply);
  }

  private async move(
    command: Pick<MoneyCommand, 'kind' | 'orderId' | 'amountMinor' | 'reason'>,
    { caller, idempotencyKey, expectedVersions }: Asked,
    reply: FastifyReply,
  ): Promise<MoneyMove> {
    const result = await this.moveMoney.execute({
      ...command,
      expectedVersions,
      tenant: caller.tenant,
      ...keyedChange(caller, command.kind, idempotencyKey, command),
    });
    if (result.replayed) reply.header('Idempotent-Replayed', 'true');
    if ('refusal' in result) throw result.refusal;
    return result.move;
  }
}
