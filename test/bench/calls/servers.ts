import { setTimeout } from 'node:timers/promises';
import { Controller, Inject, Injectable, Module, type DynamicModule, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { MessagePattern, Payload } from '@nestjs/microservices';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { address, Answers, listenForMessages, MessagingModule, Messenger } from '#messaging';
import type { Serve } from './commands.js';
import { echoContract, type EchoReply, type EchoRequest } from './contract.js';
import { bareOptions, barePattern } from './nest.js';

/** The implementation that answers, over every transport. */
@Injectable()
class Echo {
  constructor(
    private readonly name: string,
    private readonly serviceMs: number,
  ) {}

  async answer({ id, lines }: EchoRequest): Promise<EchoReply> {
    if (this.serviceMs > 0) await setTimeout(this.serviceMs);
    return { id, by: this.name, lines };
  }
}

@Controller()
class ContractMessages {
  constructor(@Inject(Echo) private readonly echo: Echo) {}

  @Answers(echoContract, 'echo')
  answer(request: EchoRequest): Promise<EchoReply> {
    return this.echo.answer(request);
  }
}

@Controller()
class BareMessages {
  constructor(@Inject(Echo) private readonly echo: Echo) {}

  @MessagePattern(barePattern)
  answer(@Payload() request: EchoRequest): Promise<EchoReply> {
    return this.echo.answer(request);
  }
}

@Module({})
class EchoModule {
  static with(controller: Type, { name, serviceMs }: Serve): DynamicModule {
    return {
      module: EchoModule,
      imports: [MessagingModule.forRoot()],
      controllers: [controller],
      providers: [{ provide: Echo, useValue: new Echo(name, serviceMs) }],
    };
  }
}

const settings = { logger: ['error' as const, 'warn' as const], abortOnError: false };

/** @returns the Messenger, which also calls modules of the same process */
export const serveByContract = async (serve: Serve): Promise<Messenger> => {
  const app = await NestFactory.create(EchoModule.with(ContractMessages, serve), new FastifyAdapter(), settings);
  await listenForMessages(app, [address.parse(serve.at)]);
  return app.get(Messenger);
};

export const serveBare = async (serve: Serve): Promise<void> => {
  const app = await NestFactory.createMicroservice(EchoModule.with(BareMessages, serve), {
    ...settings,
    ...bareOptions(serve.at),
  });
  await app.listen();
};
