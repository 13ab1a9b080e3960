// Anthropic's client for Node.
import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { z } from 'zod';

import { KEY, MODEL, URL, WEATHER, asking, show } from './cases.mjs';

const client = new Anthropic({ baseURL: URL, apiKey: KEY });
const River = z.object({ name: z.string(), km: z.number().int() });
const about = (name) => ({ model: MODEL, max_tokens: 100, messages: [{ role: 'user', content: asking(name) }] });

async function chat(name, { model = MODEL, key = KEY } = {}) {
  const answer = await client
    .withOptions({ apiKey: key })
    .messages.create({ ...about(name), model, system: 'Be brief.' });
  return { text: answer.content[0].text, used: [answer.usage.input_tokens, answer.usage.output_tokens] };
}

async function stream() {
  const pieces = [];
  const running = client.messages.stream(about('stream')).on('text', (piece) => pieces.push(piece));
  return { text: await running.finalText(), pieces };
}

async function tools() {
  const called = [];
  const weather = betaZodTool({
    name: 'weather',
    description: 'Tells the weather.',
    inputSchema: z.object({ city: z.string() }),
    run: (told) => {
      called.push('weather', told);
      return WEATHER;
    },
  });
  const last = await client.beta.messages.toolRunner({ ...about('tools'), tools: [weather] });
  return { text: last.content[0].text, called };
}

async function schema() {
  const answer = await client.messages.parse({
    ...about('schema'),
    output_config: { format: zodOutputFormat(River) },
  });
  return answer.parsed_output;
}

await show('anthropic', chat, { stream, tools, schema });
