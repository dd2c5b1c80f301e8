import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, it } from '@jest/globals';
import { Limiter } from '#admission';
import { RequestLog } from '#telemetry';
import { LoadShedder, mostInTurn } from '../src/load-shedder.js';
import { ObservedRequests } from '../src/observed-requests.js';

it('ends a turn of the event loop after a number of refusals, and writes the others then', async () => {
  const shedder = new LoadShedder({}, new ObservedRequests(new RequestLog()));
  const limiter = new Limiter();
  while (!limiter.isFull) limiter.enter();
  const refuse = (): ServerResponse => {
    const request = new IncomingMessage(new Socket());
    const response = new ServerResponse(request);
    shedder.refuse(request, response, limiter, '/things');
    return response;
  };
  const count = 2 * mostInTurn;
  const responses = Array.from({ length: count }, refuse);
  const ended = (): number => responses.filter((it) => it.writableEnded).length;
  expect([ended(), limiter.shed]).toEqual([mostInTurn, count]);
  await nextTurn();
  expect(ended()).toBe(count);
  // The next turn begins anew.
  expect(refuse().writableEnded).toBe(true);
});
