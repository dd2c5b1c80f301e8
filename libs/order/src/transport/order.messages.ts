import { Controller } from '@nestjs/common';
import { orderContract, type RequestOf } from '#contracts';
import { Answers, JsonReply } from '#messaging';
import { ReadEvents } from '../use-cases/read-events.js';

type Operations = (typeof orderContract)['operations'];

/** Answers messages of other modules. */
@Controller()
export class OrderMessages {
  constructor(private readonly readEvents: ReadEvents) {}

  @Answers(orderContract, 'events')
  async events({ after, limit, types }: RequestOf<Operations['events']>): Promise<JsonReply> {
    const { events, until, isMore } = await this.readEvents.log(after, limit, types);
    // Joined once, together with the envelope: every further step would copy a text of megabytes.
    const texts = [...events];
    texts[0] = `{"until":"${until}","is_more":${isMore},"events":[${texts[0] ?? ''}`;
    texts.push(`${texts.pop()!}]}`);
    return new JsonReply(texts.join(','));
  }
}
