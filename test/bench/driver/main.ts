import { carryOut } from '../commands.js';
import { closedLoop } from './closed-loop.js';
import type { DriverCommands, Load } from './commands.js';
import { openLoop } from './open-loop.js';
import { Templates } from './templates.js';

const prepared = new Map<string, Templates>();

const templatesOf = ({ requests }: Load): Templates => {
  const templates = prepared.get(requests);
  if (!templates) throw new Error(`no requests were prepared as ${requests}`);
  return templates;
};

carryOut({
  prepare: ({ name, requests }) => {
    prepared.set(name, new Templates(requests));
  },
  closedLoop: (load) => closedLoop(templatesOf(load), load),
  openLoop: (load) => openLoop(templatesOf(load), load),
} satisfies DriverCommands);
