#include "arch/relocate.h"

#include <inttypes.h>

struct relocation {
	const struct tm_relocator *relocator;
	const uint8_t *bytes;
	size_t size;
	uint64_t from;
	size_t min_bytes;
	struct tm_emit emit;
	enum tm_insn_kind last; /* of the instructions moved so far, padding behind a jump not counted */
};

/* Whether an address lies in what the caller will overwrite, but for its first byte. */
static bool overwritten(const struct relocation *relocation, uint64_t address)
{
	return address - relocation->from - 1 < relocation->min_bytes - 1;
}

static const char *check_neighbours(const struct relocation *relocation, const struct tm_insn *insn)
{
	switch (insn->kind) {
	case TM_INSN_BRANCH:
	case TM_INSN_JUMP:
	case TM_INSN_CALL:
		if (overwritten(relocation, insn->target))
			return "it jumps into the bytes that would be overwritten";
		break;
	case TM_INSN_PLAIN:
	case TM_INSN_PADDING:
	case TM_INSN_JUMP_INDIRECT:
	case TM_INSN_CALL_INDIRECT:
	case TM_INSN_RETURN:
	case TM_INSN_TRAP:
		break;
	}
	if (insn->kind == TM_INSN_CALL || insn->kind == TM_INSN_CALL_INDIRECT)
		if (overwritten(relocation, insn->address + insn->size))
			return "it returns into the bytes that would be overwritten";
	if (insn->refers && insn->reference - relocation->from < relocation->min_bytes)
		return "it refers to the bytes that would be overwritten";
	return NULL;
}

static bool ended(const struct relocation *relocation)
{
	return relocation->emit.out.consumed && !tm_insn_goes_on(relocation->last);
}

/* A nop that control reaches is code; behind a jump it is only there to be overwritten. */
static const char *take(struct relocation *relocation, const struct tm_insn *insn, const uint8_t *bytes,
			size_t left)
{
	const struct tm_relocator *relocator = relocation->relocator;
	const char *why = NULL;

	if (ended(relocation))
		return insn->kind == TM_INSN_PADDING ? NULL : "the instruction before it never goes on to it";
	if (insn->refusal)
		return insn->refusal;
	if (relocator->confirm)
		why = relocator->confirm(bytes, left, insn);
	if (!why)
		why = check_neighbours(relocation, insn);
	if (!why)
		why = relocator->move(&relocation->emit, insn, bytes);
	relocation->last = insn->kind;
	return why;
}

static struct tm_error *refuse(const struct relocation *relocation, const char *why)
{
	size_t at = relocation->emit.out.consumed;
	uint64_t address = relocation->from + at;
	char text[128];

	relocation->relocator->describe(relocation->bytes + at, relocation->size - at, address, text,
					sizeof(text));
	return tm_error_create(TM_ERROR_UNSUPPORTED, "cannot move `%s` at 0x%" PRIx64 ": %s", text, address,
			       why);
}

static struct tm_error *move_all(struct relocation *relocation)
{
	size_t *consumed = &relocation->emit.out.consumed;

	while (*consumed < relocation->min_bytes) {
		const uint8_t *bytes = relocation->bytes + *consumed;
		size_t left = relocation->size - *consumed;
		struct tm_insn insn;
		const char *why;

		if (!relocation->relocator->decode(bytes, left, relocation->from + *consumed, &insn))
			return refuse(relocation,
				      left ? "it is unknown or cut off" : "no more bytes are at hand");
		why = take(relocation, &insn, bytes, left);
		if (why)
			return refuse(relocation, why);
		*consumed += insn.size;
	}
	return NULL;
}

static const char *jump(struct relocation *relocation, uint64_t target)
{
	tm_emit_point(&relocation->emit, target);
	return relocation->relocator->jump(&relocation->emit, target);
}

static const char *finish(struct relocation *relocation)
{
	const struct tm_relocator *relocator = relocation->relocator;
	struct tm_emit *emit = &relocation->emit;
	const char *why = NULL;

	if (!ended(relocation))
		why = jump(relocation, relocation->from + emit->out.consumed);
	for (size_t i = 0; i < emit->later_count && !why; i++) {
		const struct tm_later *later = &emit->later[i];

		why = relocator->fill_field(emit, later);
		if (why)
			return why;
		switch (later->kind) {
		case TM_LATER_CONSTANT:
			tm_emit_u64(emit, later->value);
			break;
		case TM_LATER_JUMP:
			why = jump(relocation, later->value);
			break;
		}
	}
	return why ? why : emit->full ? "its code does not fit into a pad" : NULL;
}

struct tm_error *tm_relocate(const struct tm_relocator *relocator, const uint8_t *bytes, size_t size,
			     uint64_t from, uint64_t to, size_t min_bytes, struct tm_relocated *out)
{
	struct relocation relocation = {
		.relocator = relocator,
		.bytes = bytes,
		.size = size,
		.from = from,
		.min_bytes = min_bytes ? min_bytes : 1,
		.emit = {.to = to},
	};
	struct tm_error *err = move_all(&relocation);
	const char *why;

	if (err)
		return err;
	why = finish(&relocation);
	if (why)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "cannot move %zu bytes of code from 0x%" PRIx64 " to 0x%" PRIx64
				       ": %s",
				       relocation.emit.out.consumed, from, to, why);
	*out = relocation.emit.out;
	return NULL;
}
