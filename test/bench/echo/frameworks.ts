import 'reflect-metadata';
import { Controller, Get, Module, Query } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { fastify } from 'fastify';
import { answer } from './answer.js';

export const listenByFastify = (): Promise<string> => {
  const app = fastify();
  app.get('/cache', async () => answer.value);
  return app.listen({ port: 0, host: '127.0.0.1' });
};

/** A controller as in Nest's documentation. */
@Controller('cache')
class EchoController {
  @Get()
  find(@Query('key') _key: string): unknown {
    return answer.value;
  }
}

@Module({ controllers: [EchoController] })
class EchoModule {}

export const listenByNest = async (): Promise<string> => {
  const app = await NestFactory.create(EchoModule, new FastifyAdapter(), { logger: ['error', 'warn'] });
  await app.listen(0, '127.0.0.1');
  return app.getUrl();
};
