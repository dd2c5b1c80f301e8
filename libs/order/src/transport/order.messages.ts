import { Controller } from '@nestjs/common';
import { orderContract, type ReplyOf, type RequestOf } from '#contracts';
import { Answers } from '#messaging';
import { ReadEvents } from '../use-cases/read-events.js';

type Operations = (typeof orderContract)['operations'];

/** Answers the other modules. */
@Controller()
export class OrderMessages {
  constructor(private readonly readEvents: ReadEvents) {}

  @Answers(orderContract, 'events')
  async events({ after, limit }: RequestOf<Operations['events']>): Promise<ReplyOf<Operations['events']>> {
    const { events, isMore } = await this.readEvents.log(after, limit);
    return { events, is_more: isMore };
  }
}
