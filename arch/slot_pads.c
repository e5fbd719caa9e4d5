#include "arch/slot_pads.h"

#include <string.h>

struct tm_error *tm_slot_pads_make(const struct tm_arch *arch, bool records, struct tm_slot_pads *pads)
{
	memset(pads, 0, sizeof(*pads));
	pads->records = records;
	memcpy(pads->magic, records ? TM_SLOT_PADS_RECORD : TM_SLOT_PADS_STOP, sizeof(pads->magic));
	if (arch != &tm_arch_x86_64)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "the python domain is not there for %s yet",
				       arch->name);
	tm_x86_64_slot_pads(pads);
	return NULL;
}
