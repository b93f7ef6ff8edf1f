// What llama.cpp says first on a prompt: with a .gguf file, and with the same file and a LoRA adapter.
//
//     npm install node-llama-cpp
//     node docs/checks/llama_cpp.mjs MODEL.gguf "PROMPT" [ADAPTER.gguf]
//
// Prints one line: the continuation of five tokens under greedy sampling.
import {getLlama, LlamaCompletion} from "node-llama-cpp";

const [file, prompt, adapter] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const lora = adapter ? {adapters: [{filePath: adapter}]} : undefined;
const context = await model.createContext({contextSize: 256, lora});
const completion = new LlamaCompletion({contextSequence: context.getSequence()});
console.log(JSON.stringify(await completion.generateCompletion(prompt, {maxTokens: 5, temperature: 0})));
process.exit(0);
