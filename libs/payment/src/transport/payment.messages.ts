import { Controller } from '@nestjs/common';
import { paymentContract, type ReplyOf, type RequestOf } from '#contracts';
import { Answers, type MessageMetadata } from '#messaging';
import { PerformOperations } from '../use-cases/perform-operations.js';
import { ReadPayment } from '../use-cases/read-payment.js';

type Operations = (typeof paymentContract)['operations'];

/** Answers messages of other modules. */
@Controller()
export class PaymentMessages {
  constructor(
    private readonly performOperations: PerformOperations,
    private readonly readPayment: ReadPayment,
  ) {}

  @Answers(paymentContract, 'perform')
  async perform(
    { operations }: RequestOf<Operations['perform']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['perform']>> {
    return { outcomes: await this.performOperations.execute(tenant, operations) };
  }

  @Answers(paymentContract, 'read')
  async read(
    { order_id }: RequestOf<Operations['read']>,
    { tenant }: MessageMetadata,
  ): Promise<ReplyOf<Operations['read']>> {
    return { payment: (await this.readPayment.execute(tenant, order_id)) ?? null };
  }
}
