#include "python/current_state.h"

#include "debuginfo/symbol.h"
#include "python/tables.h"

#define READER		      "PyThreadState_Get" /* exported by every version */
#define CODE_MAX	      64u
#define ARRAY_END(code, size) ((code)->size >= (size) ? (code)->size - (size) + 1 : 0)

static int32_t int_at(const struct tm_code_bytes *code, size_t offset)
{
	int32_t value;

	memcpy(&value, code->bytes + offset, sizeof(value));
	return value;
}

static bool find_bytes(const struct tm_code_bytes *code, const char *bytes, size_t size, size_t *offset)
{
	for (size_t i = 0; i < ARRAY_END(code, size + sizeof(int32_t)); i++)
		if (memcmp(code->bytes + i, bytes, size) == 0) {
			*offset = i + size;
			return true;
		}
	return false;
}

/* The run-time address that the displacement at `offset` leads to, from the next instruction. */
static uint64_t operand_at(const struct tm_interpreter *interpreter, const struct tm_code_bytes *code,
			   size_t offset)
{
	return interpreter->module->bias + code->address + offset + sizeof(int32_t) +
	       (uint64_t)(int64_t)int_at(code, offset);
}

static bool read_words(const struct tm_memory *memory, uint64_t address, uint64_t *words, size_t count)
{
	struct tm_error *err = tm_memory_read(memory, address, words, count * sizeof(*words));
	bool read = !err;

	tm_error_destroy(err);
	return read;
}

/* ELF Handling For Thread-Local Storage, 4.4: the code sequences of x86-64's models. */
static struct tm_current_state find_thread_local(const struct tm_interpreter *interpreter,
						 const struct tm_code_bytes *code,
						 const struct tm_memory *memory)
{
	static const struct tm_current_state unknown = {TM_STATE_UNKNOWN, 0, 0};
	uint64_t words[2];
	size_t at, load;

	/* general dynamic: data16 lea x@tlsgd(%rip),%rdi. The words are the module's number and an offset. */
	if (find_bytes(code, "\x66\x48\x8d\x3d", 4, &at))
		return read_words(memory, operand_at(interpreter, code, at), words, 2) && words[0]
			       ? (struct tm_current_state){TM_STATE_MODULE, words[1], words[0]}
			       : unknown;
	/* local exec: mov %fs:x@tpoff,%rax */
	if (find_bytes(code, "\x64\x48\x8b\x04\x25", 5, &at))
		return (struct tm_current_state){TM_STATE_THREAD, (uint64_t)(int64_t)int_at(code, at), 0};
	/* initial exec: mov x@gottpoff(%rip),%rax; mov %fs:(%rax),%rax */
	if (find_bytes(code, "\x48\x8b\x05", 3, &at) && find_bytes(code, "\x64\x48\x8b\x00", 4, &load))
		return read_words(memory, operand_at(interpreter, code, at), words, 1)
			       ? (struct tm_current_state){TM_STATE_THREAD, words[0], 0}
			       : unknown;
	return unknown;
}

struct tm_current_state tm_current_state_find(const struct tm_interpreter *interpreter,
					      const struct tm_memory *memory)
{
	const struct tm_module *module = interpreter->module;
	uint64_t runtime = interpreter->runtime - module->bias, current = interpreter->layout.runtime_current;
	struct tm_current_state unknown = {TM_STATE_UNKNOWN, 0, 0};
	struct tm_code_bytes code;
	struct tm_symbol symbol;

	if (!tm_module_find_dynamic_symbol(module, READER, &symbol))
		return unknown;
	code = (struct tm_code_bytes){.address = symbol.vaddr};
	code.bytes = tm_module_bytes(module, symbol.vaddr, &code.size);
	if (!code.bytes)
		return unknown;
	if (code.size > CODE_MAX)
		code.size = CODE_MAX;
	if (current == TM_PYTHON_ABSENT)
		return find_thread_local(interpreter, &code, memory);
	return tm_code_refers_to(&code, runtime, runtime + current)
		       ? (struct tm_current_state){TM_STATE_GLOBAL, interpreter->runtime + current, 0}
		       : unknown;
}
