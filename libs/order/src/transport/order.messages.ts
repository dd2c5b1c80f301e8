import { Controller } from '@nestjs/common';
import { orderContract, type RequestOf } from '#contracts';
import { Answers, JsonReply } from '#messaging';
import { ReadEvents } from '../use-cases/read-events.js';

type Operations = (typeof orderContract)['operations'];

/** Answers the other modules. */
@Controller()
export class OrderMessages {
  constructor(private readonly readEvents: ReadEvents) {}

  @Answers(orderContract, 'events')
  async events({ after, limit, types }: RequestOf<Operations['events']>): Promise<JsonReply> {
    const { events, until, isMore } = await this.readEvents.log(after, limit, types);
    return new JsonReply(`{"events":${events},"until":"${until}","is_more":${isMore}}`);
  }
}
