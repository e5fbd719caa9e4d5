#include "arch/reach.h"

#include <string.h>

#include "arch/x86_64_insn.h"

struct way {
	uint64_t address, end; /* of the body */
	tm_is_wanted is_wanted;
	void *context;
};

enum outcome { GOES_ON, REACHES, ENDS };

/* A direct call or jump elsewhere. */
static enum outcome follow(const struct way *way, const struct tm_insn *insn, bool comes_back)
{
	if (way->is_wanted(way->context, insn->target, false))
		return REACHES;
	return comes_back ? GOES_ON : ENDS;
}

static enum outcome follow_slot(const struct way *way, const struct tm_insn *insn, bool comes_back)
{
	if (insn->refers && way->is_wanted(way->context, insn->reference, true))
		return REACHES;
	return comes_back ? GOES_ON : ENDS;
}

static enum outcome look_at(const struct way *way, const struct tm_insn *insn)
{
	bool inside = insn->target >= way->address && insn->target < way->end;

	switch (insn->kind) {
	case TM_INSN_PLAIN:
	case TM_INSN_PADDING:
		return GOES_ON;
	case TM_INSN_BRANCH:
		return inside && insn->target > insn->address ? ENDS : GOES_ON;
	case TM_INSN_JUMP:
		return inside ? ENDS : follow(way, insn, false);
	case TM_INSN_CALL:
		return follow(way, insn, true);
	case TM_INSN_JUMP_INDIRECT:
		return follow_slot(way, insn, false);
	case TM_INSN_CALL_INDIRECT:
		return follow_slot(way, insn, true);
	case TM_INSN_RETURN:
	case TM_INSN_TRAP:
		return ENDS;
	}
	return ENDS;
}

bool tm_body_reaches(const struct tm_arch *arch, const uint8_t *bytes, size_t size, uint64_t address,
		     tm_is_wanted is_wanted, void *context)
{
	const struct way way = {address, address + size, is_wanted, context};
	enum outcome outcome = GOES_ON;
	struct tm_insn insn;

	if (arch != &tm_arch_x86_64)
		return false;
	for (size_t at = 0; outcome == GOES_ON && at < size; at += insn.size) {
		if (!tm_x86_64_decode(bytes + at, size - at, address + at, &insn))
			return false;
		outcome = look_at(&way, &insn);
	}
	return outcome == REACHES;
}

bool tm_stub_slot(const struct tm_arch *arch, const uint8_t *bytes, size_t size, uint64_t address,
		  uint64_t *slot)
{
	static const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
	size_t at =
		size >= sizeof(endbr64) && memcmp(bytes, endbr64, sizeof(endbr64)) == 0 ? sizeof(endbr64) : 0;
	struct tm_insn insn;

	if (arch != &tm_arch_x86_64 || !tm_x86_64_decode(bytes + at, size - at, address + at, &insn) ||
	    insn.kind != TM_INSN_JUMP_INDIRECT || !insn.refers)
		return false;
	*slot = insn.reference;
	return true;
}
